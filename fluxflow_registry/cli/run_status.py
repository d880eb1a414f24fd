"""The state of a run, read from its folder alone: it changes nothing, waits for nothing and reads no tensor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

from attrs import evolve, fields, frozen

from fluxflow_registry.cli.plugins_of_run import changed
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.errors import Problem, RunError, counted
from fluxflow_registry.recipe.load import LABEL
from fluxflow_registry.state import checkpoints
from fluxflow_registry.state.bookkeeping import read_json

#: `failed`: an error ended it. `interrupted`: training came further than its last checkpoint, and then ended silently.
#: `unknown`: files cannot be locked, and another machine may be training it.
State = Literal["running", "unknown", "finished", "failed", "stopped", "interrupted", "not started"]

#: No run counts this far: a larger number was not written by a run.
LARGEST = 10**15


@frozen
class Step:
    """A step of the run, with the most that it can take."""

    name: str
    epochs: int
    batches: int


@frozen
class Record:
    """What a run records when it starts; older versions recorded less."""

    recipe: str
    finished: bool
    name: str | None
    steps: tuple[Step, ...]
    command: str | None
    directory: str | None
    #: The error that ended it, where one did.
    failed: str | None = None

    @property
    def run_batches(self) -> int | None:
        """The most batches that the run can take."""
        return sum(step.epochs * step.batches for step in self.steps) or None


@frozen
class Reached:
    """How far training was when it logged last, and when that was."""

    position: Position
    seconds_ago: float


@frozen
class CheckpointAttempt:
    """A checkpoint compared with its manifest."""

    name: str
    kind: checkpoints.Kind
    step: str
    run_batch: int
    seconds_ago: float
    size: int
    #: What is wrong with it; None where every file has the digest that it was written with.
    problem: str | None
    #: Whether all its numbers are finite; None where that is not known.
    finite: bool | None


@frozen
class Resume:
    """What resuming would do: from which checkpoint (None: the beginning), and which ones it would quarantine."""

    checkpoint: str | None
    would_quarantine: tuple[CheckpointAttempt, ...]
    #: Batches that are known to be trained and are not in that checkpoint.
    repeats: int
    command: str | None
    directory: str | None
    #: The name of the folder of the run that the command would resume; None: it would start a new one.
    finds: str | None
    #: A checkpoint that a run of another recipe has saved, which makes resuming an error.
    foreign: str | None = None


# More than a dozen members: the page of --status shows each of them.
@frozen
class RunStatus:
    """The state of a run."""

    folder: Path
    record: Record
    state: State
    #: The process that trains it, or, where that is unknown, the one that may.
    lock_owner: str | None
    #: The position in the newest checkpoint that is whole.
    saved: Position | None
    #: A later position, which was logged but not saved.
    reached: Reached | None
    checkpoint: CheckpointAttempt | None
    kept: int
    quarantined: tuple[str, ...]
    resume: Resume
    changed_plugins: tuple[str, ...]
    damaged_samples: Mapping[str, int]
    results: Mapping[str, Mapping[str, Mapping[str, float]]]
    bundles: tuple[Path, ...]
    #: Epochs and metrics from the checkpoint, step by step; empty if an older version saved it.
    pipeline_metadata: Mapping[str, Any]


def read_status(folder: Path, plugins: Sequence[dict[str, Any]]) -> RunStatus:
    """The status of the run in a folder, its newest checkpoints verified; raises RunError for a damaged record."""
    record, (owner, certain) = read_record(folder), folders.lock_owner(folder)
    attempts, meta = walk(folder / folders.CHECKPOINTS)
    found = checkpoints.listing(folder / folders.CHECKPOINTS)
    reached = read_reached(folder, found[0].run_batch if found else 0)
    return RunStatus(
        folder=folder,
        record=record,
        state=(state := state_of(record, owner, certain, found, reached)),
        lock_owner=owner if state in ("running", "unknown") else None,
        saved=position_of(meta.get("position")),
        reached=reached,
        checkpoint=attempts[0] if attempts else None,
        kept=len(found),
        quarantined=tuple(sorted(each.name for each in folder.glob("checkpoints/.*.damaged"))),
        resume=resume_of(folder, record, attempts, reached, meta.get("recipe") or record.recipe),
        changed_plugins=tuple(changed(folder, plugins)),
        damaged_samples={name: len(samples) for name, samples in _maps(meta.get("damaged")).items()},
        results={
            step: {name: _numbers(metrics) for name, metrics in _maps(measured).items()}
            for step, measured in _maps(meta.get("results")).items()
        },
        bundles=tuple(folders.bundles(folder)),
        pipeline_metadata=_pipeline(meta.get("pipeline_metadata")),
    )


@frozen
class RunSummary:
    """The status of a run in short: its files are not verified."""

    folder: Path
    #: None where the record of the run is damaged.
    state: State | None
    #: The step of the newest checkpoint.
    step: str | None
    run_batch: int
    run_batches: int | None
    seconds_ago: float


def read_summary(folder: Path) -> RunSummary:
    """The status of the run in a folder, by names and dates alone."""
    found = checkpoints.listing(folder / folders.CHECKPOINTS)
    reached = read_reached(folder, found[0].run_batch if found else 0)
    changed_last = max(path.stat().st_mtime for path in (folder / folders.IDENTITY, *(f.folder for f in found[:1])))
    ago = reached.seconds_ago if reached else max(0.0, time.time() - changed_last)
    step, run_batch = (found[0].step, found[0].run_batch) if found else (None, 0)
    try:
        record = read_record(folder)
    except RunError:
        return RunSummary(folder, None, step, run_batch, None, ago)
    if reached:
        index, run_batch = reached.position.step, reached.position.run_batch
        step = record.steps[index].name if index < len(record.steps) else step
    state = state_of(record, *folders.lock_owner(folder), found, reached)
    return RunSummary(folder, state, step, run_batch, record.run_batches, ago)


def read_record(folder: Path) -> Record:
    """What is recorded of a run; raises RunError, with what there is, where that is damaged."""
    path = folder / folders.IDENTITY
    try:
        content = read_json(path)
        digest = folders.checked_identity(content)["recipe"]
    except (RunError, ValueError) as error:
        found = checkpoints.listing(folder / folders.CHECKPOINTS)
        kept = f"{counted(len(found), 'checkpoint')}, the newest {found[0].folder.name}" if found else "no checkpoint"
        hint = "rerun the same command to start a new run: this one cannot be resumed"
        if folders.read_identity(folder):
            hint = "rerun the same command to resume: the checkpoints show which recipe the run trains"
        problem = error.problems[0] if isinstance(error, RunError) else Problem(str(error), code="damaged-run")
        raise RunError(evolve(problem, where=str(path), notes=(("status", kept), ("hint", hint)))) from None
    steps = content.get("steps")
    read = [_step(each) for each in steps] if isinstance(steps, list) else []
    return Record(
        recipe=digest,
        finished=bool(content.get("finished")),
        name=_text(content.get("name")),
        steps=tuple(step for step in read if step) if all(read) else (),
        command=_text(content.get("command")),
        directory=_text(content.get("directory")),
        failed=_text(content.get(folders.FAILED)),
    )


def walk(root: Path, patience: int = 5) -> tuple[list[CheckpointAttempt], dict[str, Any]]:
    """The checkpoints that resuming would try, newest first, up to the first intact one; and its metadata.

    A run may remove a checkpoint while it is read here: then all are read again.
    """
    attempts: list[CheckpointAttempt] = []
    for found in checkpoints.listing(root):
        try:
            attempts.append(attempt(found))
        except OSError:
            if patience and not found.folder.exists():
                return walk(root, patience - 1)
            raise
        if attempts[-1].problem is None:
            try:
                return attempts, _map(checkpoints.read_meta(found.folder))
            except RunError:
                return attempts, {}
    return attempts, {}


def compared_with_manifest(folder: Path) -> tuple[str | None, Mapping[str, Any]]:
    """What is wrong with a checkpoint, None if nothing is; and its manifest."""
    try:
        for file in folder.iterdir():
            if file.exists() and not file.is_file():  # reading a pipe would block
                return f"{file}  is not a file", {}
        return None, checkpoints.verify(folder)
    except RunError as error:
        return str(error), {}
    except OSError as error:
        return f"{folder}  cannot be read: {error.strerror}", {}


def attempt(found: checkpoints.Found) -> CheckpointAttempt:
    """A checkpoint compared with its manifest, with its size and age."""
    problem, manifest = compared_with_manifest(found.folder)
    size, written = 0, found.folder.lstat().st_mtime
    for file in found.folder.iterdir() if found.folder.is_dir() else ():
        facts = file.lstat()
        size += facts.st_size
        written = facts.st_mtime if file.name == checkpoints.MANIFEST else written
    not_finite = manifest.get("not_finite")
    return CheckpointAttempt(
        name=found.folder.name,
        kind=found.kind,
        step=found.step,
        run_batch=found.run_batch,
        seconds_ago=max(0.0, time.time() - written),
        size=size,
        problem=problem,
        finite=not not_finite if isinstance(not_finite, list) else None,
    )


def read_reached(folder: Path, saved: int) -> Reached | None:
    """The live position, where training has come further than the newest checkpoint."""
    try:
        content = read_json(folder / folders.POSITION)
    except RunError:
        return None
    position = position_of(content)
    when = _map(content).get("time")
    if position is None or position.run_batch <= saved or not _is_number(when) or not 0 <= when <= LARGEST:
        return None
    return Reached(position, max(0.0, time.time() - when))


def state_of(
    record: Record, owner: str | None, certain: bool, found: Sequence[checkpoints.Found], reached: Reached | None
) -> State:
    """Whether the run is running or finished, or how it ended; `certain`: whether its owner is known."""
    if owner is not None and certain:
        return "running"
    if record.finished:
        return "finished"
    if record.failed is not None:
        return "failed"
    if owner is not None:
        return "unknown"
    if reached is not None:
        return "interrupted"
    return "stopped" if found else "not started"


def resume_of(
    folder: Path, record: Record, attempts: Sequence[CheckpointAttempt], reached: Reached | None, recipe: Any
) -> Resume:
    """What the command that resumes the run would do; `recipe` is the one that the newest intact checkpoint names."""
    finds: str | None = folder.absolute().name
    if record.name is not None and LABEL.match(record.name):
        found, _ = folders.unfinished(folder.absolute().parent, record.name, record.recipe)
        finds = found.path.name if found else None
    whole = attempts[-1] if attempts and attempts[-1].problem is None else None
    furthest = max([each.run_batch for each in attempts] + ([reached.position.run_batch] if reached else []), default=0)
    foreign = whole.name if whole and recipe != record.recipe else None
    return Resume(
        checkpoint=whole.name if whole and not foreign else None,
        would_quarantine=tuple(each for each in attempts if each.problem is not None),
        repeats=furthest - (whole.run_batch if whole else 0),
        command=record.command,
        directory=record.directory,
        finds=finds,
        foreign=foreign,
    )


def position_of(content: Any) -> Position | None:
    """A position as it was written; None if it is not one."""
    counts = {field.name: _map(content).get(field.name) for field in fields(Position)}
    known = {name: count for name, count in counts.items() if _is_count(count)}
    return Position(**known) if len(known) == len(counts) else None


def _step(content: Any) -> Step | None:
    name, epochs, batches = (_map(content).get(key) for key in ("name", "epochs", "batches"))
    return Step(name, epochs, batches) if isinstance(name, str) and _is_count(epochs) and _is_count(batches) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pipeline(value: Any) -> dict[str, Any]:
    """The counts and means that a checkpoint holds, as far as they are what a run writes."""
    if not isinstance(value, dict):
        return {}
    counts = ("current_step", "step_start_epoch", "current_step_epoch")
    found: dict[str, Any] = {name: value[name] for name in counts if _is_count(value.get(name))}
    found["current_step_name"] = _text(value.get("current_step_name"))
    found["step_epochs"] = {k: n for k, n in _map(value.get("step_epochs")).items() if _is_count(n)}
    found["step_metrics"] = {
        step: {
            metric: [mean if _is_number(mean) else None for mean in means]
            for metric, means in metrics.items()
            if isinstance(means, list)
        }
        for step, metrics in _maps(value.get("step_metrics")).items()
    }
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _map(value: Any) -> dict[str, Any]:
    """A mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def _maps(value: Any) -> dict[str, dict[str, Any]]:
    """The entries that are mappings themselves."""
    return {name: each for name, each in _map(value).items() if isinstance(each, dict)}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    known = {name: each for name, each in metrics.items() if _is_number(each)}
    return {name: float(each) for name, each in known.items() if isinstance(each, float) or abs(each) < LARGEST}
