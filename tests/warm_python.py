"""A Python that imports the heavy libraries once, and forks for each command that it is asked to run.

    python -P tests/warm_python.py SOCKET

A client connects to SOCKET and sends one message: the JSON {"argv", "cwd", "env"} together with the descriptors of the
command's standard streams. It receives the process id and then, once the command has ended, its exit code (negative:
the signal that killed it). A client that disconnects before that kills the command. The server ends when its standard
input does.

The command, `python ARGV` (a script, `-m MODULE` or `-c CODE`), runs as in a fresh interpreter: in a session of its
own, with its own environment, folder, import path, streams, signal handlers and random numbers. Three things differ:
the modules of the libraries and of this project are imported already, though nothing of them has run; all commands of
a server share the seed of the hashes of strings; and `os.fsync` does not wait for the disk.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.metadata
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Libraries that commands import; what this list leaves out they import themselves.
LIBRARIES = (
    "attrs",
    "cattrs",
    "importlib.metadata",
    "lpips",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "multiprocessing.pool",
    "numpy",
    "PIL.Image",
    "pluggy",
    "rich.console",
    "ruamel.yaml",
    "safetensors.torch",
    "sympy",
    "torch",
    "torch._dynamo",
    "torch._meta_registrations",
    "torch.optim",
    "torch.utils.checkpoint",
    "torch.utils.data",
    "torch.utils.tensorboard",
)


class Server:
    """Accepts requests, forks, and reports how each command ended."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        #: The connection and process id of each running command, by the descriptor that watches the process.
        self.running: dict[int, tuple[socket.socket, int]] = {}

    def is_needed(self) -> bool:
        """Whether a first client comes before the standard input ends: only then is anything imported."""
        return any(key.fileobj is self.listener for key, _ in self.selector.select())

    def serve(self) -> None:
        """Serve until the standard input ends; what still runs then is killed."""
        while True:
            for key, _ in self.selector.select():
                if key.fd == 0:
                    for connection, _ in [*self.running.values()]:
                        self.release(connection)
                    return
                if key.fileobj is self.listener:
                    self.start(self.listener.accept()[0])
                elif isinstance(key.fileobj, socket.socket):  # a client sends nothing after its request
                    self.release(key.fileobj)
                elif key.fd in self.selector.get_map():  # it may just have been released
                    self.report(key.fd)

    def start(self, connection: socket.socket) -> None:
        message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        pid = os.fork()
        if pid == 0:
            connection.close()
            self.forget()
            be(json.loads(message), streams)
        for stream in streams:
            os.close(stream)
        watch = os.pidfd_open(pid)
        self.running[watch] = connection, pid
        self.selector.register(watch, selectors.EVENT_READ)
        self.selector.register(connection, selectors.EVENT_READ)
        connection.send(str(pid).encode())

    def forget(self) -> None:
        """In the child: close what is the server's."""
        for watch, (connection, _) in self.running.items():
            os.close(watch)
            connection.close()
        self.listener.close()
        self.selector.close()

    def report(self, watch: int) -> None:
        """Tell the client how the command ended; until it disconnects, the process id is not given to another."""
        connection, pid = self.running[watch]
        self.selector.unregister(watch)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        with contextlib.suppress(OSError):
            connection.send(str(code).encode())

    def release(self, connection: socket.socket) -> None:
        """The client has disconnected: nobody waits for the command any more."""
        self.selector.unregister(connection)
        watch, pid = next((watch, pid) for watch, (client, pid) in self.running.items() if client is connection)
        if watch in self.selector.get_map():
            self.selector.unregister(watch)
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        connection.close()
        os.close(watch)
        del self.running[watch]


def be(request: dict[str, Any], streams: list[int]) -> None:
    """In the child: run the command as a fresh interpreter would, and leave with its exit code."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)  # tests may be started with one of them ignored, as by `nohup`
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        open_streams()
        set_up_libraries()
        code = run(request["argv"])
    finally:
        os._exit(code)


def set_up_libraries() -> None:
    """What libraries do when they are imported, and have to do again in each process."""
    import numpy as np
    import torch

    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def open_streams() -> None:
    """Standard streams on the descriptors 0, 1 and 2, as the environment asks for them."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw) if number else io.BufferedReader(raw),
            encoding=encoding or "utf-8",
            errors="backslashreplace" if name == "stderr" else errors or "strict",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(argv: list[str]) -> int:
    """Run `python ARGV`; the exit code."""
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    code = 0
    try:
        if argv[0] == "-m":
            sys.path[:0] = [os.getcwd(), *paths]
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv[0] == "-c":
            sys.path[:0] = ["", *paths]
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[:0] = [str(Path(argv[0]).resolve().parent), *paths]
            sys.argv = argv
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as left:
        code = exit_code(left)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code


def exit_code(left: SystemExit) -> int:
    if left.code is None or isinstance(left.code, int):
        return left.code or 0
    print(left.code, file=sys.stderr)
    return 1


def skip_sync(fd: Any) -> None:
    """Stand in for `os.fsync`: files of a test need not survive a power failure, and syncing one takes milliseconds."""
    os.fstat(fd)  # a file that is closed is an error as before


def modules() -> Iterator[str]:
    """All modules of this project but those that run when they are imported."""
    points = importlib.metadata.distribution("fluxflow-registry").entry_points
    for name in ("fluxflow_registry", *(point.value for point in points if point.group == "fluxflow")):
        yield name
        path = importlib.import_module(name).__path__
        yield from (module.name for module in pkgutil.walk_packages(path, f"{name}."))


def main() -> None:
    os.fsync = skip_sync
    server = Server(sys.argv[1])
    print("ready", flush=True)
    if server.is_needed():
        for name in (*LIBRARIES, *modules()):
            if not name.endswith("__main__"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        gc.collect()
        gc.freeze()
        server.serve()


if __name__ == "__main__":
    main()
