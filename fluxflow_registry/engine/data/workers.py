"""Worker processes that read data: how they start, how they send what they read, and how they end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from attrs import frozen
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fluxflow_registry.engine.run.signals import REQUESTS, WARNINGS, blocked
from fluxflow_registry.errors import DataError, FluxflowError, Problem, counted, one_line
from fluxflow_registry.registry.files import PluginFile, find_files, plugin_files

#: How often new workers are started before a single batch has come from them.
RESTARTS = 3

#: The exit code of a worker that could not send what it has read.
UNSENT = 70

_SHARED = "enlarge shared memory (/dev/shm; in a container `--shm-size`)"
_LESS = "or lower `workers` or `batch_size`"
_ALONE = "or set `workers: 0` to read without worker processes"
_FILES = "raise the limit of open files (`ulimit -n`), or lower `workers`"

#: What to do where workers cannot be started, by the number of the error.
START_HINTS = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _FILES),
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), "free memory, raise the limit of processes, or lower `workers`"),
    # Queues between processes need semaphores, which are files in shared memory.
    **dict.fromkeys(
        (errno.ENOSYS, errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC),
        f"mount /dev/shm writable, {_ALONE}",
    ),
}

#: What to do where workers die, by their exit codes; negative: the signal.
DEATH_HINTS = {
    -9: "the system kills processes when memory is short: free memory, or lower `workers` or `batch_size`",
    -7: f"{_SHARED}, {_LESS}",  # SIGBUS, of a page that shared memory has no space for
    UNSENT: f"the line above says why; if it is shared memory, {_SHARED}, {_LESS}",
}


@frozen
class Unreadable:
    """An item that cannot be read; as a value, it reaches the main process without a worker's traceback."""

    problems: tuple[Problem, ...]


def read_in_workers(dataset: Dataset[Any], start: int, stop: int, workers: int) -> Iterator[Any]:
    """Items `start` .. `stop` - 1 of a dataset as worker processes read them; where one dies, new ones continue.

    Raises DataError for an Unreadable item, and where the workers die again and again.
    """
    deaths = 0
    while start < stop:
        with _loading(dataset, range(start, stop), workers) as items:
            try:
                for item in items:
                    if isinstance(item, Unreadable):
                        raise DataError(item.problems)
                    yield item
                    start, deaths = start + 1, 0
            except (RuntimeError, OSError, EOFError) as error:  # torch raises any of these when a worker dies
                if not wait([worker.sentinel for worker in items._workers], timeout=1):  # none has died
                    notes = [("cause", _cause(error))]
                    notes += [("hint", _FILES)] if "open files" in str(error) else []
                    raise _failed("the worker processes that read samples failed", *notes) from error
                deaths += 1
                if deaths > RESTARTS:
                    raise _died(items._workers) from error


def start_method() -> str:
    """How workers are started: as this process has chosen for all of its processes, else by a fork on Linux.

    A forked worker starts in milliseconds and has everything that is open here. On macOS, libraries of the system do
    not survive a fork; there Python's own default applies.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or ("fork" if sys.platform == "linux" else multiprocessing.get_all_start_methods()[0])


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


class _Sent(Dataset[Any]):
    """A dataset that is pickled for a worker: its plugin's file must be found there before it is read."""

    def __init__(self, dataset: Dataset[Any], method: str) -> None:
        self.dataset, self.method = dataset, method

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            content = bytes(ForkingPickler.dumps(self.dataset))
        except Exception as error:
            message = f"{self.dataset} cannot be sent to worker processes that are started by `{self.method}`"
            hint = f"let it open files and create locks when it first reads, {_ALONE}"
            raise _failed(message, ("cause", one_line(error)), ("hint", hint)) from error
        return _received, (plugin_files(), content, str(self.dataset))


class _Lost(Dataset[Any]):
    """Stands for a dataset that a worker could not unpickle."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __getitem__(self, number: int) -> Unreadable:
        return Unreadable((self.problem,))


def _received(files: list[PluginFile], content: bytes, name: str) -> Dataset[Any]:
    """In a worker: the dataset that `_Sent` was."""
    find_files(files)
    try:
        dataset: Dataset[Any] = ForkingPickler.loads(content)  # from the parent process, as all that it sends
    except Exception as error:
        message = f"{name} cannot be loaded in a worker process"
        hint = f"define it in a module or in a plugin's file, {_ALONE}"
        return _Lost(Problem(message, None, [("cause", one_line(error)), ("hint", hint)], code="worker-failed"))
    return dataset


@contextmanager
def _loading(dataset: Dataset[Any], numbers: range, workers: int) -> Iterator[Any]:
    """Torch's loader with its workers killed at the end: they ignore signals, and torch would wait for each."""
    method = start_method()
    loader = DataLoader(
        dataset if method == "fork" else _Sent(dataset, method),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=method,
        # Its own generator: a loader without one draws a seed from torch's global generator.
        generator=torch.Generator().manual_seed(0),
    )
    items = _started(loader, method)
    # When a worker dies, torch would raise from whatever code runs, such as an optimizer's step. Without its
    # handler, which it sets in the main thread, it notices when the next batch is requested, which is early enough.
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield items
    finally:
        for worker in items._workers:
            worker.kill()
        # The event that torch would set may be locked forever by a worker that was killed.
        items._workers_done_event = threading.Event()
        items._shutdown_workers()


def _started(loader: DataLoader[Any], method: str) -> Any:
    """The loader's iterator, with its workers; raises DataError and leaves no process if they cannot be started."""
    others = {*multiprocessing.active_children()}
    items: Any = _MultiProcessingDataLoaderIter.__new__(_MultiProcessingDataLoaderIter)
    try:
        if method == "forkserver":  # the server imports torch once, instead of each worker in each epoch
            multiprocessing.get_context(method).set_forkserver_preload([__name__])
        if method != "fork":
            resource_tracker.ensure_running()  # which unblocks signals
        # Blocked in the workers until they ignore them: a signal to the group would kill one that has just started.
        with blocked():
            items.__init__(loader)
    except BaseException as error:
        items._shutdown = True  # torch's own cleanup fails where not everything is there yet
        for worker in {*multiprocessing.active_children()} - others:
            worker.kill()
            worker.join()
        if isinstance(error, FluxflowError) or not isinstance(error, Exception):
            raise
        hint = START_HINTS.get(getattr(error, "errno", None) or 0, f"lower `workers`, {_ALONE}")
        message = "the worker processes that read samples cannot be started"
        raise _failed(message, ("cause", one_line(error)), ("hint", hint)) from error
    return items


def _failed(message: str, *notes: tuple[str, str]) -> DataError:
    return DataError(Problem(message, None, notes, code="worker-failed"))


def _died(workers: Sequence[Any]) -> DataError:
    codes = sorted({worker.exitcode for worker in workers if worker.exitcode is not None})
    causes = ", ".join(f"signal {-code}" if code < 0 else f"exit code {code}" for code in codes)
    message = f"the worker processes that read samples died {counted(RESTARTS + 1, 'time')} in a row ({causes})"
    hints = dict.fromkeys(DEATH_HINTS.get(code, "set `workers: 0` to find what ends them") for code in codes)
    return _failed(message, *(("hint", hint) for hint in hints))


def _cause(error: BaseException) -> str:
    """An error as one line; of one that torch relays with the worker's traceback, the worker's own."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and lines[0].startswith("Caught ") else one_line(error)


def _unchanged(item: Any) -> Any:
    return item


def _prepare_worker(_: int) -> None:
    """Leave signals to the main process, which kills its workers, and die with it.

    torch's worker checks on its parent too, but only between batches; it then waits forever to send
    a batch that nobody receives.
    """
    watch_parent(lambda: os._exit(0))
    # The main process would wait forever for a batch that cannot be sent.
    Queue._on_queue_feeder_error = staticmethod(_die_of_queue)  # type: ignore[attr-defined]
    for number in (*REQUESTS, *WARNINGS):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*REQUESTS, *WARNINGS))
    torch.set_num_threads(1)


def _die_of_queue(error: Exception, _: Any) -> None:
    sys.stderr.write(f"a worker process cannot send the batch that it read: {one_line(error)}\n")
    sys.stderr.flush()
    os._exit(UNSENT)
