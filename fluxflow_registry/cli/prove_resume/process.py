"""One run of a proof of resumption, in a process of its own, which dies where the request says."""

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
    """Ends the process after a batch of the run: as a power cut would, or as a signal asks."""

    def __init__(self, run_batch: int, kindly: bool) -> None:
        self.run_batch, self.kindly = run_batch, kindly

    @hookimpl(trylast=True)
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        """Die, or ask the run to stop, if this is the batch."""
        if position.run_batch == self.run_batch and self.kindly:
            run.engine.stopping = "the proof"
        elif position.run_batch == self.run_batch:
            os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(number: int) -> None:
    """Die within the n-th checkpoint that this process writes, when half of a file is on the disk."""
    from fluxflow_registry.state import checkpoints, disk

    written = disk.write
    begun: set[Path] = set()

    def dying(path: Path, parts: Any) -> dict[str, Any]:
        if path.parent.parent.name == "checkpoints":
            begun.add(path.parent)
        if len(begun) == number and path.name == checkpoints.STATE:
            content = b"".join(bytes(part) for part in parts)
            written(path, [content[: len(content) // 2]])
            os.kill(os.getpid(), signal.SIGKILL)
        return written(path, parts)

    disk.write = dying


def main(request: dict[str, Any]) -> int:
    """Run the cut recipe as the request says; gives the exit code."""
    registry = load_plugins(request["plugins"])
    checked = check(request["recipe"], registry, request["settings"])
    from fluxflow_registry.cli.train.command import device_of
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
        run.observers.register(Death(death.get("batch") or death["stop"], kindly="stop" in death))
    if "checkpoint" in death:
        die_while_writing(death["checkpoint"])
    try:
        train(run)
    except Stopped:
        return STOPPED
    return 0


def run_and_leave(request: dict[str, Any], output: Path) -> NoReturn:
    """In the process: print to a file, and leave with the exit code of the run."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    finish(lambda: main(request), as_json=False)
