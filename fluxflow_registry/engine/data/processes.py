"""Processes that this one starts: by which method, with which folder for their sockets, and how they end with it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

#: Where multiprocessing looks up the folder in which a process creates sockets.
_FOLDER = "tempdir"


def start_method() -> str:
    """How workers are started: as this process has chosen for all of its processes, else by a fork on Linux.

    A forked worker starts in milliseconds and has everything that is open here. On macOS, libraries of the system do
    not survive a fork; there Python's own default applies.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or ("fork" if sys.platform == "linux" else multiprocessing.get_all_start_methods()[0])


@contextmanager
def socket_folder() -> Iterator[None]:
    """A folder for the sockets of the processes that are started within; raises OSError where there can be none.

    Each would create a folder of its own, and a process that is killed does not remove it.
    """
    config, before = _config(), _config().get(_FOLDER)
    config[_FOLDER] = folder = tempfile.mkdtemp(prefix="fluxflow-")
    try:
        yield
    finally:
        config[_FOLDER] = before
        shutil.rmtree(folder, ignore_errors=True)


def find_socket_folder() -> Path | None:
    """That folder, in this process or in one that it has started; None outside of it."""
    folder = _config().get(_FOLDER)
    return None if folder is None else Path(folder)


def watch_parent(then: Callable[[], object]) -> threading.Thread:
    """Start a thread that calls `then` once the process that has started this one is dead, however it started it."""
    parent, above = multiprocessing.parent_process(), os.getppid()
    assert parent is not None

    def watch() -> None:
        # The parent closes a pipe when it dies, but workers that it forked later have a copy of that. The process
        # above is the parent, or the server that forks for it.
        while parent.is_alive() and os.getppid() == above:
            time.sleep(0.2)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def end_without_waiting(code: int) -> NoReturn:
    """End this process and those that it has started, and remove the folder of their sockets."""
    for child in multiprocessing.active_children():
        child.kill()
    folder = find_socket_folder()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def _config() -> dict[str, Any]:
    """What processes that this one starts inherit from it."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    return config
