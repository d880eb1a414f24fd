"""`--replay`: a batch that was left out as not finite, repeated, and where the trouble began."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fluxflow_registry.cli.output import emit, emit_json, say
from fluxflow_registry.cli.plugin_changes import changed, plugin_rows
from fluxflow_registry.cli.recheck import check_again
from fluxflow_registry.cli.train.command import device_of
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.diagnosis.bundle import RECIPE, Bundle, read_bundle
from fluxflow_registry.engine.diagnosis.replay import FirstNotFinite, ReplayResult, replay
from fluxflow_registry.engine.training.not_finite import names_of
from fluxflow_registry.errors import Problem, RecipeError, TrainingError, to_json
from fluxflow_registry.registry.registry import Registry

#: Samples that are shown by name.
SHOWN = 32


def replay_bundle(arguments: argparse.Namespace, registry: Registry) -> int:
    """Repeat the batch of a bundle and tell what is not finite in it; gives the exit code."""
    refuse(arguments)
    device = device_of(arguments.device)
    bundle = read_bundle(Path(arguments.replay))
    checked = check_again(bundle.folder / RECIPE, registry, arguments.command)
    sources = open_sources(checked)
    for name in changed(bundle.folder, plugin_rows(registry)):
        say(f"note: plugin `{name}` has changed since the bundle was written")
    if str(device) != bundle.device:
        say(f"note: the bundle was written on {bundle.device}, and {device} may round otherwise")
    try:
        found = replay(bundle, checked, sources, device)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"out of memory: {str(error).splitlines()[0]}") from None
    source = sources[checked.step(bundle.step).settings.dataset]
    spoilt = names_of(source, found.first.samples) if found.first else []
    told = report_data(bundle, found, names_of(source, found.samples), spoilt)
    emit_json(told) if arguments.json else emit("\n".join(report(bundle, found, told)))
    return 0


def refuse(arguments: argparse.Namespace) -> None:
    """A bundle has its own recipe, which has to be the one of the run."""
    if arguments.recipe is not None:
        raise RecipeError(Problem("a bundle has its own recipe, so no other is taken", arguments.recipe))
    if arguments.set:
        raise RecipeError(Problem("a batch is repeated with the recipe as it was", f"--set {arguments.set[0]}"))


def report_data(bundle: Bundle, found: ReplayResult, names: list[str], spoilt: list[str]) -> dict[str, Any]:
    """What was found, as JSON; `names` are those of the samples, `spoilt` of those with a field that is not finite."""
    losses = list(compared(bundle, found))
    first, anomaly = found.first, found.anomaly
    return {
        "step": bundle.step,
        "update": bundle.update,
        "epoch": found.position.epoch + 1,
        "batch": found.position.batch,
        "run_batch": found.position.run_batch,
        "samples": list(found.samples),
        "names": names,
        "reproduced": found.reproduced,
        "same_samples": found.samples == bundle.samples,
        "same_losses": all(loss["same"] for loss in losses),
        "losses": losses,
        "first": None
        if first is None
        else {
            "kind": first.kind,
            "name": first.name,
            "defined_in": first.where,
            "samples": spoilt,
            "statistics": dict(first.statistics),
        },
        "anomaly": None
        if anomaly is None
        else {"message": anomaly.message, "lines": [{"where": w, "code": c} for w, c in anomaly.lines]},
    }


def compared(bundle: Bundle, found: ReplayResult) -> Iterator[dict[str, Any]]:
    """Each loss of each batch of the window: what was recorded, what it is now, whether that is the same."""
    for number in range(max(len(bundle.losses), len(found.losses))):
        before: Mapping[str, float] = bundle.losses[number] if number < len(bundle.losses) else {}
        now: Mapping[str, float] = found.losses[number] if number < len(found.losses) else {}
        for label in dict.fromkeys([*before, *now]):
            was, has = before.get(label), now.get(label)
            yield {
                "loss": f"{bundle.update}/{label}",
                "window": number,
                "recorded": to_json(was, exact=True),
                "now": to_json(has, exact=True),
                "same": was == has or (_nan(was) and _nan(has)),
            }


def _nan(number: float | None) -> bool:
    return number is not None and math.isnan(number)


def report(bundle: Bundle, found: ReplayResult, told: Mapping[str, Any]) -> Iterator[str]:
    """What was found, as text."""
    batches = len(found.losses)
    first = found.position.batch - batches + 1
    span = f"batch {first}" if batches == 1 else f"batches {first} to {found.position.batch}"
    where = f"step `{bundle.step}`, epoch {found.position.epoch + 1}, {span}, update `{bundle.update}`"
    yield f"{where} (batch {found.position.run_batch} of the run)"
    more = ["..."] if len(told["names"]) > SHOWN else []
    yield f"    samples  {', '.join([*told['names'][:SHOWN], *more])}"
    yield ""
    yield verdict(told)
    yield ""
    yield from loss_rows(told["losses"])
    if found.first is not None:
        yield from ("", "the first that is not finite, in the order of computing")
        yield from first_rows(found.first, told["first"]["samples"])
    if found.reproduced:
        yield from ("", "what torch's anomaly detection says of the walk back")
        yield from anomaly_rows(found)


def verdict(told: Mapping[str, Any]) -> str:
    """Whether it has happened again, in one sentence."""
    if not told["same_samples"]:
        but = ", but the batch holds other samples: the data are not those of the run"
    elif not all(loss["same"] for loss in told["losses"] if not isinstance(loss["recorded"], str)):
        but = ", but losses that were finite are not those that were recorded either"
    else:
        but = ""
    if not told["reproduced"]:
        return f"not reproduced: all is finite now{but}"
    return f"reproduced: not finite again{but}" if but else "reproduced: bit by bit what was recorded"


def loss_rows(losses: list[dict[str, Any]]) -> Iterator[str]:
    """The losses as a table; those of a window of several batches one batch after the other."""
    if not losses:
        return
    rows = [("loss", "recorded", "now", "")]
    several = losses[-1]["window"] > 0
    for loss in losses:
        name = f"{loss['loss']}, batch {loss['window'] + 1}" if several else loss["loss"]
        same = "the same" if loss["same"] else "not the same"
        rows.append((name, _number(loss["recorded"]), _number(loss["now"]), same))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield f"    {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()


def _number(number: float | str | None) -> str:
    return "-" if number is None else str(number)


def first_rows(first: FirstNotFinite, samples: list[str]) -> Iterator[str]:
    """What is not finite, where it is defined, and its statistics."""
    yield f"    {first.kind} `{first.name}`"
    if first.where:
        yield f"    defined in  {first.where}"
    if samples:
        yield f"    of samples  {', '.join(samples[:SHOWN])}"
    statistics = first.statistics
    if "of" not in statistics:
        yield f"    it is       {statistics['is']}"
        return
    counts = [
        f"{statistics[kind]:,} {word}" for kind, word in (("nan", "NaN"), ("inf", "infinite")) if statistics[kind]
    ]
    yield f"    shape       {statistics['shape']}, {statistics['dtype']}"
    yield f"    it holds    {' and '.join(counts)} of {statistics['of']:,} numbers"
    finite = statistics["finite"]
    if finite:
        yield f"    the others  {', '.join(f'{name} {value:.4g}' for name, value in finite.items())}"


def anomaly_rows(found: ReplayResult) -> Iterator[str]:
    """The backward function that gave NaN, and the lines that called its forward."""
    if found.anomaly is None:
        yield "    no backward function gives NaN"
        return
    yield f"    {found.anomaly.message}"
    if not found.anomaly.lines:
        yield "    its forward call is the engine's own: the weighted sum of the losses"
    for where, code in found.anomaly.lines:
        yield f"    {where}"
        yield f"        {code}"
