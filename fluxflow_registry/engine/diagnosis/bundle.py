"""Bundles: everything that is needed to repeat a batch in which something was not finite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen
from cattrs import Converter

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.order import names_of
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.not_finite import Evidence
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.engine.training.update import LiveUpdate
from fluxflow_registry.errors import Note, Problem, RunError, one_line, to_json
from fluxflow_registry.recipe import writer as resolved
from fluxflow_registry.state import checkpoints, disk
from fluxflow_registry.state.bookkeeping import parse_json

#: Version of the format of a bundle.
FORMAT = 1

#: How many bundles a run writes at most: each keeps checkpoints from being deleted.
MOST = 3


def write_bundle(
    run: Run, live: LiveStep, update: LiveUpdate, position: Position, saved: Iterable[checkpoints.Found]
) -> tuple[Note, ...]:
    """Write a bundle for a batch that was skipped; returns a note with the command that replays it, if there is one.

    The bundle has the recipe, the position, the samples, the losses, statistics of what was not finite, and links
    to the files of the `saved` checkpoints, from which the batch is reached again. It is written under another name
    and renamed, so that it is complete or not there.
    """
    folder = run.folder.path / folders.NOT_FINITE / f"{position.run_batch:09d}-{update.name}"
    if folder.exists():
        return (("command", folders.replay_command(folder)),)
    if run.folder.temporary or len(folders.bundles(run.folder.path)) >= MOST:
        return ()
    working = folder.with_name(f".{folder.name}.writing")
    run.folder.require()
    try:
        disk.remove(working)
        disk.make_folder(working / folders.CHECKPOINTS)
        for found in saved:
            _link(found.folder, working / folders.CHECKPOINTS / found.folder.name)
        disk.replace(working / folders.RECIPE, resolved.dump(effective_recipe(run.plan)).encode())
        if (run.folder.path / folders.ENVIRONMENT).is_file():
            disk.link(run.folder.path / folders.ENVIRONMENT, working / folders.ENVIRONMENT)
        facts = json.dumps(bundle_content(run, live, update, position), indent=1)
        disk.replace(working / folders.BUNDLE, f"{facts}\n".encode())
        disk.sync_folder(working)
        working.rename(folder)
        disk.sync_folder(folder.parent)
    except OSError as error:
        disk.remove(working)
        return (("status", f"cannot write a bundle to replay the batch: {one_line(error)}"),)
    return (("command", folders.replay_command(folder)),)


def bundle_content(run: Run, live: LiveStep, update: LiveUpdate, position: Position) -> dict[str, Any]:
    """The content of `bundle.json`."""
    evidence = update.evidence or Evidence((), {}, {})
    return {
        "format": FORMAT,
        "step": live.plan.name,
        "update": update.name,
        #: Batches of the run before the skipped one, or before the first of its window if gradients accumulate.
        "run_batch": position.run_batch - len(live.samples) // live.settings.batch_size,
        #: The position after it was skipped.
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
    """Read a bundle; raises RunError if it is not one, has another format, or has damaged checkpoints."""
    path = folder / folders.BUNDLE
    if not path.is_file():
        hint = f"pass one of the folders in RUN/{folders.NOT_FINITE}/"
        message = f"there is no bundle here: {folders.BUNDLE} is missing"
        raise RunError(Problem(message, str(folder), (("hint", hint),), code="missing-file"))
    recipe = folder / folders.RECIPE
    if recipe.exists() and not recipe.is_file():  # reading a pipe would wait forever
        raise RunError("the recipe of the bundle is not a file", str(recipe), code="unreadable-file")
    try:
        read = parse_json(disk.read_file(path))
        if read["format"] != FORMAT:
            message = f"the bundle has format {read['format']}, but this version reads format {FORMAT}"
            raise RunError(message, str(path), code="unsupported-version")
        bundle = Converter(detailed_validation=False).structure({**read, "folder": str(folder)}, Bundle)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"the bundle cannot be read: {one_line(error)}"
        raise RunError(message, str(path), code="unreadable-file") from None
    for found in checkpoints.listing(folder / folders.CHECKPOINTS):
        checkpoints.verify(found.folder)
    return bundle
