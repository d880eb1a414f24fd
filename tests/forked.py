"""Talk to `tests.faults`: start the command, wait for it, read what it said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

REPOSITORY = Path(__file__).resolve().parent.parent


@frozen
class Started:
    """A running command, the head of its own process group."""

    server: Server
    pid: int
    log: Path

    def wait(self) -> int:
        """Its exit code, once it has ended; negative: the signal that killed it."""
        return int(self.server.ask({"wait": self.pid})["code"])

    def signal(self, number: int, group: bool = False) -> None:
        """Send it, or its whole group, a signal."""
        (os.killpg if group else os.kill)(self.pid, number)

    @property
    def said(self) -> str:
        return self.log.read_text()


class Server:
    """The process that forks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.logs = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def start(self, folder: Path, *argv: str, die_at: int | None = None) -> Started:
        """Start `fluxflow-run ARGV` in a folder, to die at a file operation under it."""
        self.logs += 1
        log = folder.parent / f"{folder.name}-{self.logs}.log"
        death = {} if die_at is None else {"die_at": die_at}
        answer = self.ask({"argv": argv, "cwd": str(folder), "log": str(log), **death})
        return Started(self, answer["pid"], log)


@contextmanager
def serving() -> Iterator[Server]:
    """A server for some tests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


def only(folders: Sequence[Path]) -> Path:
    (found,) = folders
    return found


def outcome(out: Path) -> dict[str, Any]:
    """What a run has come to: final weights, figures, and each batch's line in the log; nothing of its sessions."""
    folder = only(list(out.glob("small-*")))
    finals = {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "final").rglob("*.safetensors"))}
    lines = [
        json.loads(line) for path in sorted(folder.glob("graph/*.jsonl")) for line in path.read_text().splitlines()
    ]
    of_the_session = {"timestamp", "session_id", "seconds_per_batch", "resumed_after"}
    logged = [{k: v for k, v in line.items() if k not in of_the_session} for line in lines]
    steps = json.loads((folder / "results.json").read_text())["steps"]
    results = {name: step["evaluations"] for name, step in steps.items()}
    return {"finals": finals, "results": results, "logged": logged}


def group_is_gone(pid: int, within: float) -> bool:
    """Whether no process of a group is left within some seconds."""
    limit = time.monotonic() + within
    while time.monotonic() < limit:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
