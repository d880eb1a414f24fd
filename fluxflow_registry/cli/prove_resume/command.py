"""`--prove-resume`: the shortened recipe, run uninterrupted and run with kills, compared bit by bit."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import asdict, frozen

from fluxflow_registry.check.checker import check
from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result, finish, load_plugins, say
from fluxflow_registry.cli.prove_resume.difference import (
    Difference,
    Lines,
    blame,
    counts_of,
    first_difference,
    read_trace,
)
from fluxflow_registry.cli.signals import INTERRUPTED, STOPPED
from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import FluxflowError, Problem, RunError, counted
from fluxflow_registry.hookspecs import hookimpl
from fluxflow_registry.plan.steps import RecipePlan

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.observers import ObservedRun


@frozen
class Interruption:
    """Where a process is stopped or killed: its description, and the request that causes it."""

    description: str
    request: Mapping[str, int]


def prove_resume_command(invocation: Invocation) -> Result:
    """Run the proof; the exit code is 0 where all results are the same, 1 where something differs."""
    plan, arguments = invocation.plan, invocation.arguments
    root = Path(arguments.output)
    try:
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".proof-", dir=root))
    except OSError as error:
        message = f"cannot create the output folder: {error.strerror}"
        raise RunError(message, str(root), code="unwritable-file") from None
    request = {
        "recipe": str(Path(arguments.recipe).resolve()),
        "settings": arguments.set,
        "plugins": arguments.plugin,
        "device": arguments.device,
    }
    try:
        return _prove(plan, request, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prove(plan: RecipePlan, request: Mapping[str, Any], work: Path) -> Result:
    reference, interrupted = work / "reference", work / "interrupted"
    say(f"reference run: {counted(len(plan.steps), 'short step')}, uninterrupted")
    _run({**request, "folder": str(reference)}, None)
    trace = read_trace(reference)
    interruptions = plan_interruptions(trace)
    for interruption in interruptions:
        say(interruption.description)
        _run({**request, "folder": str(interrupted), "death": interruption.request}, interruption)
    say("resumed and trained to the end")
    _run({**request, "folder": str(interrupted)}, None)
    return report(plan, trace, interruptions, first_difference(reference, interrupted))


def _run(request: dict[str, Any], interruption: Interruption | None) -> None:
    """Run one process; raises what it reports, or that it was not interrupted as planned."""
    folder = Path(request["folder"])
    folder.mkdir(exist_ok=True)
    output = folder.parent / "output.txt"
    fresh = get_context("forkserver")  # a fresh process for each run, but one import of torch for all of them
    fresh.set_forkserver_preload(["torch._dynamo"])  # which imports torch, and is imported by its optimizers
    process = fresh.Process(target=run_and_exit, args=(request, output))
    process.start()
    process.join()
    if process.exitcode in (-signal.SIGINT, INTERRUPTED):
        raise KeyboardInterrupt
    expected = 0 if interruption is None else STOPPED if "stop" in interruption.request else -signal.SIGKILL
    if process.exitcode != expected:
        code = process.exitcode or 0
        message = "a run of the proof failed before its end"
        if interruption is not None:
            message = f"a run of the proof was not interrupted as planned: {interruption.description}"
        cause = ("cause", output.read_text().strip() or f"exit code {code}")
        error = FluxflowError(Problem(message, None, (cause,), code="proof-failed"))
        error.exit_code = 1 if interruption is not None or code < 0 else code
        raise error


def plan_interruptions(trace: Lines) -> list[Interruption]:
    """A stop in the first step, a kill in each step, and one while the checkpoint after it is written."""
    batches: dict[str, list[int]] = {}
    for what, step, at in trace:
        if what == "batch":
            batches.setdefault(step, []).append(at)
    found: list[Interruption] = []
    for step, at_batch in batches.items():
        for word, request, share in (("stopped", "stop", 3), ("killed", "batch", 5)):
            at = at_batch[max(len(at_batch) * share // 6 - 1, 0)]
            if word == "killed" or (not found and len(at_batch) > 2):
                description = f"{word} after {counted(at - at_batch[0] + 1, 'batch')} of step `{step}`"
                found.append(Interruption(description, {request: at}))
    return [*found, Interruption("killed while writing the next checkpoint", {"checkpoint": 1})]


def report(
    plan: RecipePlan, trace: Lines, interruptions: Sequence[Interruption], difference: Difference | None
) -> Result:
    """What was compared, and the first difference."""
    counts = counts_of(trace)
    explanation = [] if difference is None else explain(plan, difference)

    def data() -> dict[str, Any]:
        return {
            "same": difference is None,
            "interruptions": [each.description for each in interruptions],
            "compared": counts,
            "first": None if difference is None else {"explanation": explanation, **asdict(difference)},
        }

    def text() -> str:
        rows = [f"    {number:>7,}  {what}" for what, number in counts.items() if number]
        same = [f"identical bit by bit, after {counted(len(interruptions), 'interruption')}:", *rows]
        return "\n".join(explanation or same)

    return Result(data, text, 0 if difference is None else 1)


def explain(plan: RecipePlan, difference: Difference) -> list[str]:
    """What differs first, which component causes it, and why."""
    if difference.kind == "file":
        return [f"a resumed run ends differently: `final/{difference.name}` differs"]
    where = f"at batch {difference.batch} of step `{difference.step}`"
    if difference.kind == "missing":
        return [f"a resumed run differs: {difference.what} {where} is missing"]
    return [f"a resumed run differs {where}", *blame(plan, difference)]


class Death:
    """Ends the process after a batch of the run: at once, as a power cut does, or by a stop, as a signal does."""

    def __init__(self, run_batch: int, stop: bool) -> None:
        self.run_batch, self.stop = run_batch, stop

    @hookimpl(trylast=True)
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        """Kill the process, or request a stop, if this is the batch."""
        if position.run_batch == self.run_batch and self.stop:
            run.engine.stopping = "the proof"
        elif position.run_batch == self.run_batch:
            os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(number: int) -> None:
    """Kill the process within the n-th checkpoint that it writes, when half of a file is on the disk."""
    from fluxflow_registry.state import checkpoints, disk

    write = disk.write
    started: set[Path] = set()

    def write_or_die(path: Path, parts: Any) -> dict[str, Any]:
        if path.parent.parent.name == "checkpoints":
            started.add(path.parent)
        if len(started) == number and path.name == checkpoints.STATE:
            content = b"".join(bytes(part) for part in parts)
            write(path, [content[: len(content) // 2]])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, parts)

    disk.write = write_or_die


def main(request: dict[str, Any]) -> int:
    """Run the shortened recipe as requested; returns the exit code."""
    registry = load_plugins(request["plugins"])
    checked = check(request["recipe"], registry, request["settings"])
    from fluxflow_registry.cli.device import device_of
    from fluxflow_registry.engine.data.opening import open_sources
    from fluxflow_registry.engine.diagnosis.proof import Trace, shortened
    from fluxflow_registry.engine.run.folder import RunFolder
    from fluxflow_registry.engine.run.loop import train
    from fluxflow_registry.engine.run.run import Run
    from fluxflow_registry.engine.run.stopping import Stopped

    short = shortened(checked)
    folder = RunFolder(Path(request["folder"]), "proof")
    run = Run(short, folder, open_sources(short), device_of(request["device"]))
    run.observers.register(Trace(folder.path / "trace.jsonl"))
    death = request.get("death", {})
    if "batch" in death or "stop" in death:
        run.observers.register(Death(death.get("batch") or death["stop"], stop="stop" in death))
    if "checkpoint" in death:
        die_while_writing(death["checkpoint"])
    try:
        train(run)
    except Stopped:
        return STOPPED
    return 0


def run_and_exit(request: dict[str, Any], output: Path) -> NoReturn:
    """In the process: print to a file, and exit with the exit code of the run."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    finish(lambda: main(request), as_json=False)
