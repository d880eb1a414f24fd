"""The command in a forked process, so that hundreds of runs need one import of torch; with a death built in.

    python -m tests.faults < requests > answers

A request is a line of JSON: {"argv", "cwd", "log", "die_at"}; the answer {"pid"}. {"wait": pid} is answered
by {"code"} once that process has ended. `die_at` counts the file operations under `cwd`: at that one the process kills
itself, a write half done. Without it, or with one that is never reached, a line `operations N` ends the log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

#: What is counted beside writes and syncs, which no audit event tells.
EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Deaths:
    """Counts file operations and kills the process at one of them."""

    def __init__(self, root: Path, die_at: int) -> None:
        self.root, self.die_at, self.done = os.fspath(root), die_at, 0
        self.write, self.sync = os.write, os.fsync
        sys.addaudithook(self.heard)
        os.write, os.fsync = self.written, self.synced  # type: ignore[assignment]

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (opened or event in EVENTS) and self.inside(arguments[0]):
            self.count()

    def inside(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(self.root)

    def count(self) -> None:
        self.done += 1
        if self.done == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def written(self, file: int, data: Any) -> int:
        if file > 2 and self.done + 1 == self.die_at:
            self.write(file, bytes(data)[: len(data) // 2])
        if file > 2:
            self.count()
        return self.write(file, data)

    def synced(self, file: int) -> None:
        self.count()
        self.sync(file)


def run(request: dict[str, Any]) -> None:
    """In the child: be the command, in a process group of its own, and leave with its exit code."""
    from fluxflow_registry.cli.main import run as command

    os.setsid()
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    deaths = Deaths(Path(request["cwd"]), request["die_at"]) if "die_at" in request else None
    code = 70
    try:
        command(request["argv"])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    if deaths is not None:
        os.write(2, f"operations {deaths.done}\n".encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    import torch

    import fluxflow_registry.cli.train.command
    import fluxflow_registry.engine.run.loop  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                run(request)
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
