"""The command with a death built in.

    python -m tests.faults N ARGUMENTS

runs `fluxflow-run ARGUMENTS`, counts the file operations under the current folder, and kills itself at the N-th, with a
write half done. Where there are fewer (or N is 0) the output ends with a line `operations` and their number.
"""

from __future__ import annotations

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


def main() -> None:
    from fluxflow_registry.cli.main import run

    deaths = Deaths(Path.cwd(), int(sys.argv[1]))
    sys.argv = ["fluxflow-run", *sys.argv[2:]]
    try:
        run()
    finally:
        print("operations", deaths.done, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
