"""`--status`: the state of a run, what is saved, and what resuming would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import asdict

from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result
from fluxflow_registry.cli.plugins_of_run import plugin_rows
from fluxflow_registry.cli.run_status import Record, RunStatus, RunSummary, read_status, read_summary
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.folder import IDENTITY, replay_command
from fluxflow_registry.errors import LISTED, RunError, counted, printable, table, to_json
from fluxflow_registry.registry.registry import Registry

#: Rows of a section: a label, which may be empty, and a text.
Rows = list[tuple[str, str]]

MEANING = {
    "running": "running",
    "unknown": "unknown, because files cannot be locked on this disk",
    "finished": "finished",
    "failed": "not running: stopped by an error",
    "stopped": "not running: nothing was logged after its last checkpoint",
    "interrupted": "not running: it was killed, crashed or failed after its last checkpoint",
    "not started": "not running: nothing has been saved yet",
}

WHY = {
    "due": "as scheduled",
    "stop": "when the run was stopped",
    "latest": "between scheduled checkpoints",
    "best": "as the best so far",
    "end": "at the end of step `{step}`",
}


def status_command(invocation: Invocation) -> Result:
    """The status of the run, or of each run in the folder, that the command line names."""
    found = status(invocation.arguments.status, invocation.registry)
    return Result(lambda: status_data(found), lambda: status_text(found))


def status(path: str, registry: Registry) -> RunStatus | list[RunSummary]:
    """The state of the run in a folder, or of each run of an output folder; raises RunError if there is none."""
    folder = Path(path)
    if "\0" in path:
        raise RunError("the folder does not exist", path, code="missing-file")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.stat()  # `exists` hides why a folder cannot be read since Python 3.14
        if (folder / IDENTITY).exists():
            return read_status(folder, plugin_rows(registry))
        runs = runs_in(folder)
        if not runs:
            raise no_run_error(folder)
        return summaries(runs)
    except OSError as error:
        raise RunError(f"cannot read the folder: {error.strerror}", path, code="unreadable-file") from None


def summaries(runs: Iterable[Path]) -> list[RunSummary]:
    """The state of each of these runs, newest first; one that is removed meanwhile is left out."""
    found = []
    for run in runs:
        with suppress(OSError):
            found.append(read_summary(run))
    return sorted(found, key=lambda each: each.seconds_ago)


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs in a folder, as far as they can be read."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(OSError):
            found += [path] if (path / IDENTITY).exists() else []
    return found


def no_run_error(folder: Path) -> RunError:
    """The error that there is no run in a folder, with the runs next to it."""
    inside = next((parent for parent in folder.absolute().parents if (parent / IDENTITY).exists()), None)
    if inside is not None:
        message = "this folder is inside a run: use the folder of the run itself"
        return RunError(message, str(folder), [("instead", str(inside))], code="missing-file")
    if folder.is_dir():
        message = f"there is no run in this folder: it has no {IDENTITY}, and neither do the folders in it"
    else:
        message = "this is not a folder" if folder.exists() else "the folder does not exist"
    for beside in (folder / "runs", folder.absolute().parent, Path("runs")):
        if names := [path.name for path in runs_in(beside)]:
            notes = [("see also", str(beside))]
            return RunError(message, str(folder), notes, code="missing-file", subject=folder.name, choices=names)
    return RunError(message, str(folder), code="missing-file")


def status_text(found: RunStatus | list[RunSummary]) -> str:
    """The status as text."""
    return runs_table(found) if isinstance(found, list) else report(found)


def status_data(found: RunStatus | list[RunSummary]) -> dict[str, Any]:
    """The status as JSON."""
    if isinstance(found, list):
        return {"runs": [to_json(asdict(each)) for each in found]}
    bundles = [{"folder": str(path), "command": replay_command(path)} for path in found.bundles]
    return {**to_json(asdict(found)), "bundles": bundles}


def runs_table(runs: Sequence[RunSummary]) -> str:
    """One line per run."""
    rows = []
    for each in runs:
        state, reached = each.state or f"damaged {IDENTITY}", out_of(each.run_batch, each.run_batches, "batch")
        step = printable(f"step {each.step}") if each.step else ""
        rows.append((printable(each.folder.name), state, ago(each.seconds_ago), reached, step))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def report(found: RunStatus) -> str:
    """Everything about one run, in sections."""
    lines = [f"run {printable(str(found.folder))}", *section(overview(found))]
    for title, rows in (
        ("position", positions(found)),
        ("last checkpoint", last_checkpoint(found)),
        ("if it were killed now" if found.state == "running" else "to resume", resuming(found)),
        ("latest results", results(found)),
        ("notes", notes(found)),
    ):
        if rows:
            lines += ["", title, *section(rows)]
    return "\n".join(lines)


def section(rows: Rows) -> list[str]:
    """Rows of the status, aligned."""
    return [line.rstrip() for line in table(rows, indent=2)]


def overview(found: RunStatus) -> Rows:
    """Which run this is and whether it is running."""
    used = "in use" if found.state == "running" else "last used"
    state = MEANING[found.state] + (f", {used} by {printable(found.lock_owner)}" if found.lock_owner else "")
    if found.state == "stopped" and found.checkpoint and found.checkpoint.kind == "stop":
        state = "not running: it saved a checkpoint when it was stopped"
    name = f"`{found.record.name}`, " if found.record.name else ""
    recipe = f"{name}see recipe.yaml (identity {found.record.recipe[:12]})"
    error = [("error", found.record.failed)] if found.state == "failed" and found.record.failed else []
    return [("state", state), *error, ("recipe", recipe)]


def positions(found: RunStatus) -> Rows:
    """How far the run is: in its newest intact checkpoint, and where training has logged since then."""
    rows: Rows = []
    if found.saved:
        rows.append(("saved", place(found.saved, found.record)))
    elif found.kept:
        rows.append(("saved", "no intact checkpoint"))
    if found.reached:
        reached = f"{place(found.reached.position, found.record)}\nlogged {ago(found.reached.seconds_ago)}"
        rows.append(("now at" if found.state == "running" else "reached", reached))
    elif found.state == "running":
        rows.append(("now at", "nothing has been logged since then"))
    return rows


def place(position: Position, record: Record) -> str:
    """A position in the terms of the recipe on one line, and the batches that are done on another."""
    run = out_of(position.run_batch, record.run_batches, "batch") + " of the run"
    if record.steps and position.step >= len(record.steps):
        return f"after the last step\n{run}"
    step = record.steps[position.step] if record.steps else None
    named = f"step `{step.name}` ({position.step + 1} of {len(record.steps)})" if step else f"step {position.step + 1}"
    if position.step_batch == 0:
        return f"{named}, at its start\n{run}"
    done = out_of(position.step_batch, step.epochs * step.batches if step else None, "batch") + " of the step"
    epochs, batches = (step.epochs, step.batches) if step else (None, None)
    if position.batch == 0:  # the start of an epoch is the end of the one before
        return f"{named}, epoch {out_of(position.epoch, epochs)} done\n{done}, {run}"
    batch = f"epoch {out_of(position.epoch + 1, epochs)}, batch {out_of(position.batch, batches)}"
    return f"{named}, {batch}\n{done}, {run}"


def out_of(number: int, total: int | None, noun: str = "") -> str:
    """`3 of 25`, or `3` if the total is unknown; with a noun `3 of 25 batches`."""
    if total is None or total < number:
        return counted(number, noun) if noun else f"{number:,}"
    return f"{number:,} of {counted(total, noun) if noun else f'{total:,}'}"


def last_checkpoint(found: RunStatus) -> Rows:
    """The newest checkpoint, and how many there are."""
    rows: Rows = []
    if each := found.checkpoint:
        finite = {True: "all finite", False: "not all finite", None: "unknown whether finite"}[each.finite]
        saved = f"{ago(each.seconds_ago)}, {WHY[each.kind].format(step=each.step)}"
        rows += [("name", each.name), ("saved", saved), ("size", size(each.size))]
        rows.append(("files", "verified: all SHA-256 digests match" if each.problem is None else "DAMAGED"))
        rows += [("numbers", finite)] if each.problem is None else [("", each.problem.replace(f"{found.folder}/", ""))]
    rows.append(("kept", counted(found.kept, "checkpoint") if found.kept else "no checkpoint"))
    return rows + [("quarantined", name) for name in capped(found.quarantined)]


def resuming(found: RunStatus) -> Rows:
    """What the command that resumes the run would do, and the command."""
    resume = found.resume
    if found.state == "finished":
        return []
    if resume.foreign:
        return [("from", f"nothing: {resume.foreign} belongs to another recipe; move it out of the folder")]
    start = f"checkpoint {resume.checkpoint}" if resume.checkpoint else "the beginning: no checkpoint is intact"
    rows = [("from", start if found.kept else "the beginning: there is no checkpoint")]
    rows += [("quarantining", name) for name in capped([each.name for each in resume.would_quarantine])]
    certain = found.state == "stopped" and found.checkpoint is not None and found.checkpoint.kind == "stop"
    least = "nothing" if certain else "no logged batches"
    rows.append(("repeating", f"at least {counted(resume.repeats, 'batch')}" if resume.repeats else least))
    if resume.command:
        if found.state == "failed":
            rows.append(("first", "fix the cause of the error, or the command will fail again"))
        if found.state == "unknown":
            rows.append(("first", f"make sure that {printable(str(found.lock_owner))} has ended"))
        rows.append(("command", resume.command))
        if resume.directory and Path(resume.directory) != Path.cwd():
            rows.append(("run it from", resume.directory))
    own = found.folder.absolute().name
    if resume.finds is None:
        rows.append(("note", f"the command looks for a folder `{found.record.name}-...`, but this folder is `{own}`"))
    elif resume.finds != own:
        rows.append(("note", f"the command resumes {resume.finds}, a newer run of the same recipe"))
    return rows


def results(found: RunStatus) -> Rows:
    """The latest metrics of each evaluation, as of the checkpoint."""
    measured = [(f"{step}/{name}", each) for step, names in found.results.items() for name, each in names.items()]
    rows = [(name, ", ".join(f"{metric} {value:.4g}" for metric, value in each.items())) for name, each in measured]
    return rows[:LISTED]


def notes(found: RunStatus) -> Rows:
    """What to know before resuming."""
    rows = [("plugin changed", f"`{name}` has changed since the run started") for name in found.changed_plugins]
    for name, count in list(found.damaged_samples.items())[:LISTED]:
        rows.append(("damaged data", f"dataset `{name}`: {counted(count, 'sample')} replaced by others"))
    return rows + [("not finite", replay_command(path)) for path in found.bundles[:LISTED]]


def capped(names: Sequence[str]) -> list[str]:
    """The first names, and how many more there are."""
    return [*names[:LISTED], *([f"and {len(names) - LISTED} more"] if len(names) > LISTED else [])]


def ago(seconds: float) -> str:
    """How long ago something was, in one unit."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{counted(int(seconds / length), unit)} ago"
    return f"{counted(int(seconds), 'second')} ago"


def size(count: int) -> str:
    """Bytes in a unit that is easily read."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return counted(count, "byte")
