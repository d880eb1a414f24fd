"""A bundle: all that is needed to repeat the batch in which something was not finite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.folder import ENVIRONMENT
from fluxflow_registry.engine.run.plugins_at_start import replay_command
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.not_finite import Evidence, names_of
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.engine.training.update import LiveUpdate
from fluxflow_registry.errors import Problem, RunError, one_line, to_json
from fluxflow_registry.recipe import writer as resolved
from fluxflow_registry.state import checkpoints, disk

FOLDER = "not_finite"
FACTS = "bundle.json"
RECIPE = "recipe.yaml"
CHECKPOINTS = "checkpoints"

#: Version of the form of a bundle's facts.
FORMAT = 1

#: Bundles that a run writes at most: each holds checkpoints from being deleted.
MOST = 3


def write_bundle(
    run: Run, live: LiveStep, turn: LiveUpdate, position: Position, held: Iterable[checkpoints.Found]
) -> str:
    """Write what is known of a batch that was left out; gives the words that say where.

    The bundle has the recipe, the place, the samples, the losses, statistics of what was not finite,
    and second names for the files of the checkpoints `held`, from which the batch is reached again.
    It is written beside its place and renamed: it is whole, or not there.
    """
    folder = run.folder.path / FOLDER / f"{position.run_batch:09d}-{turn.name}"
    if folder.exists():
        return f"\n    look into it  {replay_command(folder)}"
    if run.folder.temporary or len(bundles(run.folder.path)) >= MOST:
        return ""
    working = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(working, ignore_errors=True)
        disk.make_folder(working / CHECKPOINTS)
        for found in held:
            _link(found.folder, working / CHECKPOINTS / found.folder.name)
        disk.replace(working / RECIPE, resolved.dump(effective_recipe(run.plan)).encode())
        if (run.folder.path / ENVIRONMENT).is_file():
            disk.link(run.folder.path / ENVIRONMENT, working / ENVIRONMENT)
        disk.replace(working / FACTS, (json.dumps(facts(run, live, turn, position), indent=1) + "\n").encode())
        disk.sync_folder(working)
        working.rename(folder)
        disk.sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(working, ignore_errors=True)
        return f"\n    the bundle to look into it could not be written: {one_line(error)}"
    return f"\n    look into it  {replay_command(folder)}"


def bundles(run: Path) -> list[Path]:
    """The bundles in a run's folder, the latest last."""
    return sorted(path for path in (run / FOLDER).glob("*") if not path.name.startswith("."))


def facts(run: Run, live: LiveStep, turn: LiveUpdate, position: Position) -> dict[str, Any]:
    """The JSON side of a bundle."""
    evidence = turn.evidence or Evidence((), {}, {})
    return {
        "format": FORMAT,
        "step": live.plan.name,
        "update": turn.name,
        #: Batches of the run before the one that was left out (the first of its window, when it accumulates).
        "run_batch": position.run_batch - len(live.samples) // live.settings.batch_size,
        #: Where the run stood when it had been left out.
        "position": asdict(position),
        "device": str(run.device),
        "samples": list(live.samples),
        "names": names_of(live.source, live.samples),
        "losses": to_json(evidence.losses, exact=True),
        "values": evidence.values,
        "gradients": evidence.gradients,
    }


def _link(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        disk.link(file, target / file.name)
    disk.sync_folder(target)


@frozen
class Bundle:
    """A bundle as it is read back."""

    folder: Path
    step: str
    update: str
    run_batch: int
    position: Position
    device: str
    samples: tuple[int, ...]
    names: tuple[str, ...]
    losses: tuple[Mapping[str, float], ...]


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle; raises RunError for what is none, or is of another version, or whose checkpoints are damaged."""
    path = folder / FACTS
    if not path.is_file():
        hint = ("bundles are in", f"RUN/{FOLDER}/, one for the first batch of each streak that was left out")
        raise RunError(Problem(f"is no bundle: it holds no {FACTS}", str(folder), (hint,)))
    try:
        read = json.loads(path.read_bytes())
        if read["format"] != FORMAT:
            message = f"is a bundle of format {read['format']}; this version reads format {FORMAT}"
            raise RunError(Problem(message, str(path)))
        bundle = Bundle(
            folder=folder,
            step=str(read["step"]),
            update=str(read["update"]),
            run_batch=int(read["run_batch"]),
            position=Position(**{key: int(value) for key, value in read["position"].items()}),
            device=str(read["device"]),
            samples=tuple(int(index) for index in read["samples"]),
            names=tuple(str(name) for name in read["names"]),
            losses=tuple({str(k): float(v) for k, v in losses.items()} for losses in read["losses"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(Problem(f"cannot be read: {one_line(error)}", str(path))) from None
    for found in checkpoints.listing(folder / CHECKPOINTS):
        checkpoints.verify(found.folder)
    return bundle
