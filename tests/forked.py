"""Commands in processes of their own that a warm Python forks, at a fraction of what fresh interpreters cost."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

REPOSITORY = Path(__file__).resolve().parent.parent

#: A program that runs `python ARGUMENTS` in the warm Python, with its own streams, folder, environment and signals.
SHIM = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect({path!r})
request = {{"argv": [*{argv!r}, *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
pid = int(connection.recv(32))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(connection.recv(32))
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


#: A plugin that pauses training after batch PAUSE_AFTER of the run, until a file `continue` exists: what is done to the
#: command meanwhile happens at that batch, however fast the machine is.
PAUSE = """
import os
import time
from pathlib import Path
from typing import ClassVar

from attrs import frozen
from fluxflow_registry import hookimpl


@frozen
class Pause:
    default: ClassVar[bool] = True

    @hookimpl(trylast=True)
    def batch_ended(self, run, position):
        if position.run_batch == int(os.environ.get("PAUSE_AFTER", -1)):
            Path("paused").touch()
            while not Path("continue").exists():
                time.sleep(0.01)


@hookimpl
def fluxflow_register_observers(register):
    register("pause", Pause)
"""


@frozen
class Started:
    """A running command, the head of its own process group."""

    connection: socket.socket
    pid: int
    log: Path

    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def wait(self) -> int:
        """Its exit code, once it has ended; negative: the signal that killed it."""
        code = int(self.connection.recv(32))
        self.connection.close()
        return code

    def signal(self, number: int, group: bool = False) -> None:
        """Send it, or its whole group, a signal."""
        (os.killpg if group else os.kill)(self.pid, number)

    def catches(self, number: int) -> bool:
        """Whether it handles a signal by now, or has ended."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            return True
        return self.ended() or bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)

    @property
    def said(self) -> str:
        return self.log.read_text()


class WarmPython:
    """The process that forks (`tests/warm_python.py`): one that all processes of tests share, or our own."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None
        #: The socket of another process' server.
        self.shared: str | None = None
        self.logs = 0

    def path(self) -> str:
        """The socket of the server, which is started where there is none."""
        if self.shared is not None:
            return self.shared
        if self.server is None:
            self.folder = tempfile.TemporaryDirectory(prefix="warm-")
            self.server = subprocess.Popen(
                [sys.executable, "-P", REPOSITORY / "tests" / "warm_python.py", f"{self.folder.name}/socket"],
                env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the tests, which then end it
            )
            assert self.server.stdout is not None
            assert self.server.stdout.readline() == b"ready\n"
        return f"{self.folder.name}/socket"

    def program(self, file: Path, *argv: str) -> Path:
        """Write a program `FILE ARGUMENTS` that runs `python ARGV ARGUMENTS`."""
        file.write_text(SHIM.format(python=sys.executable, path=self.path(), argv=argv))
        file.chmod(0o755)
        return file

    @property
    def executable(self) -> str:
        """What stands for `sys.executable`: a process of it costs little, and ends as the command has ended."""
        file = Path(self.path()).with_name(f"python-{os.getpid()}")
        return str(file if file.exists() else self.program(file))

    def start(self, folder: Path, *argv: str, die_at: int | None = None, **environment: str) -> Started:
        """Start `fluxflow-run ARGV` in a folder; `die_at`: with `tests.faults`, which kills it at a file operation."""
        module = ["fluxflow_registry"] if die_at is None else ["tests.faults", str(die_at)]
        env = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(REPOSITORY), **environment}
        request = {"argv": ["-m", *module, *argv], "cwd": str(folder), "env": env}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self.path())
        self.logs += 1
        log = folder.parent / f"{folder.name}-{self.logs}.log"
        with open(os.devnull, "rb") as nothing, log.open("ab") as output:
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            socket.send_fds(connection, [json.dumps(request).encode()], streams)
        return Started(connection, int(connection.recv(32)), log)

    def pause(self, folder: Path, batch: int, *argv: str) -> Started:
        """Start `fluxflow-run ARGV`, and return once it pauses after a batch of the run."""
        (folder / "pause.py").write_text(PAUSE)
        for file in ("paused", "continue"):
            (folder / file).unlink(missing_ok=True)
        started = self.start(folder, *argv, "--plugin", "pause.py", PAUSE_AFTER=str(batch))
        while not (folder / "paused").exists():
            assert not started.ended(), started.said
            time.sleep(0.01)
        return started

    def end(self) -> None:
        """End the server, and with it the commands that still run."""
        if self.server is not None:
            self.server.communicate()
            self.folder.cleanup()
            self.server = None


#: The one of this process of tests; `tests/conftest.py` ends it.
WARM = WarmPython()


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
