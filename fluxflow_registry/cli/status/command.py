"""`--status`: where a run stands, what is saved, and what going on would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import asdict

from fluxflow_registry.cli.plugin_changes import plugin_rows
from fluxflow_registry.cli.status.run_status import Glance, Record, RunStatus, glance, look
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.folder import IDENTITY
from fluxflow_registry.engine.run.plugins_at_start import replay_command
from fluxflow_registry.errors import LISTED, Problem, RunError, choices, counted, printable, to_json
from fluxflow_registry.registry.registry import Registry

#: Rows of a section: a label and what there is to say; a label may be empty.
Rows = list[tuple[str, str]]

MEANING = {
    "running": "running",
    "finished": "finished",
    "failed": "not running; it was ended by an error",
    "stopped": "not running; nothing was logged after its last checkpoint",
    "broken off": "not running; it was killed, crashed or failed after its last checkpoint",
    "not begun": "not running; nothing is saved yet",
}

WHY = {
    "due": "as one was due",
    "stop": "as the run was stopped",
    "best": "as the best so far",
    "end": "at the end of step `{step}`",
}


def status(path: str, registry: Registry) -> RunStatus | list[Glance]:
    """Where the run in a folder stands, or each run of an outputs folder; raises RunError where there is none."""
    folder = Path(path)
    if "\0" in path:
        raise RunError(Problem("there is no such folder", path))
    try:
        if (folder / IDENTITY).exists():
            return look(folder, plugin_rows(registry))
        runs = runs_in(folder)
        if not runs:
            raise RunError(nothing(folder))
        return glances(runs)
    except OSError as error:
        raise RunError(Problem(f"cannot be read: {error.strerror}", path)) from None


def glances(runs: Iterable[Path]) -> list[Glance]:
    """Where each of these runs stands, the newest first; one that is removed meanwhile is left out."""
    found = []
    for run in runs:
        with suppress(OSError):
            found.append(glance(run))
    return sorted(found, key=lambda each: each.seconds_ago)


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs in a folder, as far as they may be read."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(OSError):
            found += [path] if (path / IDENTITY).exists() else []
    return found


def nothing(folder: Path) -> Problem:
    """The problem that there is no run in a folder, with the runs that there are beside it."""
    inside = next((parent for parent in folder.absolute().parents if (parent / IDENTITY).exists()), None)
    if inside is not None:
        return Problem("is no run's folder, but within one", str(folder), (("the run", str(inside)),))
    if folder.is_dir():
        message = f"is no run's folder: there is no {IDENTITY} in it, and no run's folder"
    else:
        message = "is no folder" if folder.exists() else "there is no such folder"
    for beside in (folder / "runs", folder.absolute().parent, Path("runs")):
        if names := [path.name for path in runs_in(beside)]:
            return Problem(message, str(folder), choices(folder.name, names, f"runs in {beside}"))
    return Problem(message, str(folder))


def status_text(found: RunStatus | list[Glance]) -> str:
    """The status as text."""
    return table(found) if isinstance(found, list) else report(found)


def status_data(found: RunStatus | list[Glance]) -> dict[str, Any]:
    """The status as JSON."""
    if isinstance(found, list):
        return {"runs": [to_json(asdict(each)) for each in found]}
    data: dict[str, Any] = to_json(asdict(found))
    data["bundles"] = [{"folder": str(path), "command": replay_command(path)} for path in found.bundles]
    return data


def table(runs: Sequence[Glance]) -> str:
    """One line a run."""
    rows = [
        (
            printable(each.folder.name),
            each.state or f"damaged {IDENTITY}",
            ago(each.seconds_ago),
            of(each.run_batch, each.run_batches, "batch"),
            printable(f"step {each.step}") if each.step else "",
        )
        for each in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def report(found: RunStatus) -> str:
    """Everything about one run, in sections."""
    lines = [f"run {printable(str(found.folder))}", *section(overview(found))]
    for title, rows in (
        ("position", positions(found)),
        ("last checkpoint", last(found)),
        (going_on_title(found), going_on(found)),
        ("latest results", results(found)),
        ("worth knowing", notes(found)),
    ):
        if rows:
            lines += ["", title, *section(rows)]
    return "\n".join(lines)


def section(rows: Rows) -> list[str]:
    """Rows, aligned; a text of several lines goes on under itself."""
    width = max(len(printable(label)) for label, _ in rows)
    lines = []
    for label, text in rows:
        first, *rest = text.splitlines() or [""]
        lines.append(f"  {printable(label):<{width}}  {printable(first)}".rstrip())
        lines += [f"  {'':<{width}}  {printable(line)}" for line in rest]
    return lines


def overview(found: RunStatus) -> Rows:
    """Which run this is and whether it is at work."""
    state = MEANING[found.state] + (f", held by {found.held_by}" if found.held_by else "")
    if found.state == "stopped" and found.checkpoint and found.checkpoint.kind == "stop":
        state = "not running; it was stopped, and saved as it stopped"
    name = f"`{found.record.name}`, " if found.record.name else ""
    recipe = f"{name}written out in recipe.yaml (identity {found.record.recipe[:12]})"
    error = [("error", found.record.failed)] if found.state == "failed" and found.record.failed else []
    return [("state", state), *error, ("recipe", recipe)]


def positions(found: RunStatus) -> Rows:
    """How far the run is: in its newest whole checkpoint, and where training was seen later than that."""
    rows: Rows = []
    if found.saved:
        rows.append(("saved", place(found.saved, found.record)))
    elif found.kept:
        rows.append(("saved", "nothing that is whole"))
    if found.reached:
        reached = f"{place(found.reached.position, found.record)}\nlogged {ago(found.reached.seconds_ago)}"
        rows.append(("now at" if found.state == "running" else "reached", reached))
    elif found.state == "running":
        rows.append(("now at", "nothing has been logged since"))
    return rows


def place(position: Position, record: Record) -> str:
    """A position in the words of the recipe, on one line, and the batches that are done, on another."""
    run = of(position.run_batch, record.run_batches, "batch") + " of the run"
    if record.steps and position.step >= len(record.steps):
        return f"after the last step\n{run}"
    step = record.steps[position.step] if record.steps else None
    named = f"step `{step.name}` ({position.step + 1} of {len(record.steps)})" if step else f"step {position.step + 1}"
    if position.step_batch == 0:
        return f"{named}, at its start\n{run}"
    done = of(position.step_batch, step.epochs * step.batches if step else None, "batch") + " of the step"
    epochs, batches = (step.epochs, step.batches) if step else (None, None)
    if position.batch == 0:  # the start of an epoch is the end of the one before
        return f"{named}, epoch {of(position.epoch, epochs)} done\n{done}, {run}"
    return f"{named}, epoch {of(position.epoch + 1, epochs)}, batch {of(position.batch, batches)}\n{done}, {run}"


def of(number: int, total: int | None, noun: str = "") -> str:
    """`3 of 25`, or `3` where it is not known of how many; with a noun `3 of 25 batches`."""
    if total is None or total < number:
        return counted(number, noun) if noun else f"{number:,}"
    return f"{number:,} of {counted(total, noun) if noun else f'{total:,}'}"


def last(found: RunStatus) -> Rows:
    """The newest checkpoint, and how many there are."""
    rows: Rows = []
    if each := found.checkpoint:
        finite = {True: "all finite", False: "not all finite", None: "not known to be finite"}[each.finite]
        rows += [
            ("name", each.name),
            ("saved", f"{ago(each.seconds_ago)}, {WHY[each.kind].format(step=each.step)}"),
            ("size", size(each.size)),
            ("files", "verified: each has the SHA-256 that it was written with" if each.problem is None else "DAMAGED"),
        ]
        rows += [("numbers", finite)] if each.problem is None else [("", each.problem.replace(f"{found.folder}/", ""))]
    rows.append(("kept", counted(found.kept, "checkpoint") if found.kept else "no checkpoint"))
    return rows + [("laid aside", name) for name in capped(found.laid_aside)]


def going_on_title(found: RunStatus) -> str:
    """What the section about going on is called."""
    return "if it were killed now" if found.state == "running" else "to go on"


def going_on(found: RunStatus) -> Rows:
    """What the command that goes on would do, and the command."""
    resume = found.resume
    if found.state == "finished":
        return []
    start = f"checkpoint {resume.checkpoint}" if resume.checkpoint else "the beginning: no checkpoint is whole"
    rows = [("from", start if found.kept else "the beginning: there is no checkpoint")]
    rows += [("laying aside", name) for name in capped([each.name for each in resume.lays_aside])]
    certain = found.state == "stopped" and found.checkpoint is not None and found.checkpoint.kind == "stop"
    least = "nothing" if certain else "nothing that was logged"
    rows.append(("repeating", f"at least {counted(resume.repeats, 'batch')}" if resume.repeats else least))
    if resume.command and found.state == "failed":
        rows.append(("first", "mend what the error tells of, or the same command ends by it again"))
    if resume.command:
        rows.append(("command", resume.command))
    if resume.command and resume.directory and Path(resume.directory) != Path.cwd():
        rows.append(("given in", resume.directory))
    own = found.folder.absolute().name
    if resume.finds is None:
        rows.append(("BUT", f"the command looks for a folder `{found.record.name}-...`, and this is `{own}`"))
    elif resume.finds != own:
        rows.append(("BUT", f"the command goes on with {resume.finds}, a newer run of the same recipe"))
    return rows


def results(found: RunStatus) -> Rows:
    """The latest figures of each evaluation, as of the checkpoint."""
    rows = [
        (f"{step}/{name}", ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items()))
        for step, measured in found.results.items()
        for name, metrics in measured.items()
    ]
    return rows[:LISTED]


def notes(found: RunStatus) -> Rows:
    """What somebody who goes on should know."""
    rows = [
        ("plugin changed", f"`{name}` is not the one that the run was started with") for name in found.changed_plugins
    ]
    for name, count in list(found.damaged_samples.items())[:LISTED]:
        rows.append(("damaged data", f"dataset `{name}`: {counted(count, 'sample')} replaced by others"))
    return rows + [("not finite", replay_command(path)) for path in found.bundles[:LISTED]]


def capped(names: Iterable[str]) -> list[str]:
    """The first names, and how many more there are."""
    known = list(names)
    return known[:LISTED] + ([f"and {len(known) - LISTED} more"] if len(known) > LISTED else [])


def ago(seconds: float) -> str:
    """How long ago something was, in one unit."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{counted(int(seconds / length), unit)} ago"
    return f"{counted(int(seconds), 'second')} ago"


def size(count: int) -> str:
    """Bytes in a unit that is easily read."""
    if count < 1000:
        return counted(count, "byte")
    unit, length = next(
        (each for each in (("GB", 1e9), ("MB", 1e6)) if count >= each[1]),
        ("kB", 1e3),
    )
    return f"{count / length:,.1f} {unit}"
