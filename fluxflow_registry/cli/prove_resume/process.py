"""One run of a proof of resumption, in a process of its own, interrupted where the request says."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fluxflow_registry.check.checker import check
from fluxflow_registry.cli.output import finish, load_plugins
from fluxflow_registry.cli.signals import STOPPED
from fluxflow_registry.contracts import Position
from fluxflow_registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.observers import ObservedRun


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
    """Run the shortened recipe as the request says; returns the exit code."""
    registry = load_plugins(request["plugins"])
    checked = check(request["recipe"], registry, request["settings"])
    from fluxflow_registry.cli.device import device_of
    from fluxflow_registry.engine.data.opening import open_sources
    from fluxflow_registry.engine.diagnosis.shortened import shortened
    from fluxflow_registry.engine.diagnosis.trace import Trace
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
