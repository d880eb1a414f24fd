"""`--replay`: repeat a batch that was skipped as not finite, and find what was not finite first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from fluxflow_registry.cli.invocation import Invocation, device_of
from fluxflow_registry.cli.output import Result, say_note
from fluxflow_registry.cli.plugins_of_run import changed, check_again, plugin_rows
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.data.order import names_of
from fluxflow_registry.engine.diagnosis.bundle import Bundle, read_bundle
from fluxflow_registry.engine.diagnosis.replay import ReplayResult, replay
from fluxflow_registry.engine.run.folder import RECIPE
from fluxflow_registry.errors import TrainingError, listed, to_json

#: Samples that are shown by name.
SHOWN = 32


def replay_command(invocation: Invocation) -> Result:
    """Repeat the batch of a bundle; returns what is not finite in it."""
    arguments, registry = invocation.arguments, invocation.registry
    device = device_of(arguments.device)
    bundle = read_bundle(Path(arguments.replay))
    checked = check_again(bundle.folder / RECIPE, registry, arguments.command)
    sources = open_sources(checked)
    for name in changed(bundle.folder, plugin_rows(registry)):
        say_note(f"plugin `{name}` has changed since the bundle was written")
    if str(device) != bundle.device:
        say_note(f"the bundle was written on {bundle.device}, and {device} may round differently")
    try:
        found = replay(bundle, checked, sources, device)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"out of memory: {str(error).splitlines()[0]}", code="out-of-memory") from None
    source = sources[checked.step(bundle.step).settings.dataset]
    not_finite_names = names_of(source, found.first.samples) if found.first else []
    data = report_data(bundle, found, names_of(source, found.samples), not_finite_names)
    return Result(lambda: data, lambda: "\n".join(report(bundle, found, data)))


def report_data(bundle: Bundle, found: ReplayResult, names: list[str], not_finite_names: list[str]) -> dict[str, Any]:
    """What was found, as JSON; `names` are those of the samples, `not_finite_names` of those that are not finite."""
    losses = list(compared(bundle, found))
    first: dict[str, Any] | None = None
    if found.first is not None:
        first = {"kind": found.first.kind, "name": found.first.name, "defined_in": found.first.where}
        first |= {"samples": not_finite_names, "statistics": dict(found.first.statistics)}
    anomaly: dict[str, Any] | None = None
    if found.anomaly is not None:
        lines = [{"where": where, "code": code} for where, code in found.anomaly.lines]
        anomaly = {"message": found.anomaly.message, "lines": lines}
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
        "first": first,
        "anomaly": anomaly,
    }


def compared(bundle: Bundle, found: ReplayResult) -> Iterator[dict[str, Any]]:
    """Each loss of each batch of the window: what was recorded, what it is now, whether that is the same."""
    nothing: Mapping[str, float] = {}
    for number, (before, now) in enumerate(zip_longest(bundle.losses, found.losses, fillvalue=nothing)):
        for label in dict.fromkeys([*before, *now]):
            # As JSON, NaN is the same as NaN.
            was, has = to_json(before.get(label), exact=True), to_json(now.get(label), exact=True)
            loss = {"loss": f"{bundle.update}/{label}", "window": number}
            yield {**loss, "recorded": was, "now": has, "same": was == has}


def report(bundle: Bundle, found: ReplayResult, data: Mapping[str, Any]) -> Iterator[str]:
    """What was found, as text."""
    batches = len(found.losses)
    first = found.position.batch - batches + 1
    span = f"batch {first}" if batches == 1 else f"batches {first} to {found.position.batch}"
    where = f"step `{bundle.step}`, epoch {found.position.epoch + 1}, {span}, update `{bundle.update}`"
    yield f"{where} (batch {found.position.run_batch} of the run)"
    yield from (f"    samples  {listed(data['names'], SHOWN)}", "", verdict(data), "")
    yield from loss_rows(data["losses"])
    if data["first"] is not None:
        yield from ("", "the first result that is not finite, in order of computation", *first_rows(data["first"]))
    if found.reproduced:
        yield from ("", "torch's anomaly detection on the backward pass", *anomaly_rows(data["anomaly"]))


def verdict(data: Mapping[str, Any]) -> str:
    """Whether it was reproduced, in one sentence."""
    but = ""
    if not data["same_samples"]:
        but = ", but the batch contains different samples: the data has changed since the run"
    elif not all(loss["same"] for loss in data["losses"] if not isinstance(loss["recorded"], str)):
        but = ", but finite losses also differ from the recorded ones"
    if not data["reproduced"]:
        return f"not reproduced: everything is finite now{but}"
    return f"reproduced: not finite again{but}" if but else "reproduced bit by bit"


def loss_rows(losses: list[dict[str, Any]]) -> Iterator[str]:
    """The losses as a table; those of a window of several batches one batch after the other."""
    if not losses:
        return
    rows = [("loss", "recorded", "now", "")]
    several = losses[-1]["window"] > 0
    for loss in losses:
        name = f"{loss['loss']}, batch {loss['window'] + 1}" if several else loss["loss"]
        recorded, now = ("-" if loss[key] is None else str(loss[key]) for key in ("recorded", "now"))
        rows.append((name, recorded, now, "the same" if loss["same"] else "not the same"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield f"    {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()


def first_rows(first: Mapping[str, Any]) -> Iterator[str]:
    """What is not finite, where it is defined, and its statistics."""
    yield f"    {first['kind']} `{first['name']}`"
    if first["defined_in"]:
        yield f"    defined in  {first['defined_in']}"
    if first["samples"]:
        yield f"    of samples  {', '.join(first['samples'][:SHOWN])}"
    statistics = first["statistics"]
    if "of" not in statistics:
        yield f"    is          {statistics['is']}"
        return
    words = {"nan": "NaN", "inf": "infinite"}
    counts = [f"{statistics[kind]:,} {word}" for kind, word in words.items() if statistics[kind]]
    yield f"    shape       {statistics['shape']}, {statistics['dtype']}"
    yield f"    contains    {' and '.join(counts)} of {statistics['of']:,} numbers"
    if finite := statistics["finite"]:
        yield f"    the rest    {', '.join(f'{name} {value:.4g}' for name, value in finite.items())}"


def anomaly_rows(anomaly: Mapping[str, Any] | None) -> Iterator[str]:
    """The backward function that returned NaN, and the lines that called its forward."""
    if anomaly is None:
        yield "    no backward function returned NaN"
        return
    yield f"    {anomaly['message']}"
    if not anomaly["lines"]:
        yield "    its forward call is the weighted sum of the losses, in the engine"
    for line in anomaly["lines"]:
        yield from (f"    {line['where']}", f"        {line['code']}")
