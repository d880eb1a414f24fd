"""Worker processes that read data: how they start, how they send what they read, and how they end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fluxflow_registry.engine.data.processes import (
    end_without_waiting,
    find_socket_folder,
    socket_folder,
    start_method,
    watch_parent,
)
from fluxflow_registry.engine.run.signals import REQUESTS, WARNINGS, blocked
from fluxflow_registry.errors import DataError, FluxflowError, Problem, counted, one_line
from fluxflow_registry.registry.files import PluginFile, find_files, plugin_files

#: How often new workers are started before a single batch has come from them.
RESTARTS = 3

#: The exit code of a worker that could not send what it has read, and the file that says why.
UNSENT = 70
_UNSENT = "unsent.txt"

_NOT_STARTED = "the worker processes that read samples cannot be started"
_SHARED = "enlarge shared memory (/dev/shm; in a container `--shm-size`)"
_LESS = "or lower `workers` or `batch_size`"
_ALONE = "or set `workers: 0` to read without worker processes"
_FILES = "raise the open file limit (`ulimit -n`), or lower `workers`"

#: What to do where workers cannot be started, by the number of the error.
START_HINTS: dict[int | None, str] = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _FILES),
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), "free memory, raise the process limit, or lower `workers`"),
    # Queues between processes need semaphores, which are files in shared memory.
    **dict.fromkeys(
        (errno.ENOSYS, errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM),
        f"mount /dev/shm writable, {_ALONE}",
    ),
    errno.ENOSPC: f"{_SHARED}, {_LESS}",
}

#: What to do where workers die, by their exit codes; negative: the signal.
DEATH_HINTS = {
    -9: "the system kills processes when memory is short: free memory, or lower `workers` or `batch_size`",
    -7: f"{_SHARED}, {_LESS}",  # SIGBUS, of a page that shared memory has no space for
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
                    message, hint = "the worker processes that read samples failed", START_HINTS.get(_errno(error))
                    raise _failed(message, ("cause", _cause(error)), *([("hint", hint)] if hint else [])) from error
                deaths += 1
                if deaths > RESTARTS:
                    raise _died(items._workers) from error


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
    with ExitStack() as stack:
        _start_servers(method)
        try:
            stack.enter_context(socket_folder())
        except OSError as error:
            hint = f"set TMPDIR to a writable folder, {_ALONE}"
            raise _failed(_NOT_STARTED, ("cause", one_line(error)), ("hint", hint)) from error
        items = _started(loader, method)
        try:
            yield items
        finally:
            _kill(items._workers)
            # The event that torch would set may be locked forever by a worker that was killed.
            items._workers_done_event = threading.Event()
            items._shutdown_workers()


def _started(loader: DataLoader[Any], method: str) -> Any:
    """The loader's iterator, with its workers; raises DataError and leaves no process if they cannot be started."""
    others = {*multiprocessing.active_children()}
    items: Any = _MultiProcessingDataLoaderIter.__new__(_MultiProcessingDataLoaderIter)
    try:
        # Blocked in the workers until they ignore them: a signal to the group would kill one that has just started.
        with blocked():
            try:
                items.__init__(loader)
            finally:
                _ignore_deaths()
    except BaseException as error:
        items._shutdown = True  # torch's own cleanup fails where not everything is there yet
        _kill({*multiprocessing.active_children()} - others)
        with suppress(ValueError):  # torch may not yet have recorded them; another iterator may get this one's id
            torch._C._remove_worker_pids(id(items))
        if isinstance(error, FluxflowError) or not isinstance(error, Exception):
            raise
        raise _not_started(error) from error
    return items


def _ignore_deaths() -> None:
    """Undo torch's handler of SIGCHLD, which raises from whatever code runs when a worker dies or is killed.

    Without it torch notices a dead worker when the next batch is requested: early enough.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _start_servers(method: str) -> None:
    """Start what serves all workers of this process, if the method needs it; raises DataError."""
    try:
        if method != "fork":
            resource_tracker.ensure_running()  # which unblocks signals
        if method == "forkserver":
            # It imports torch once, instead of each worker in each epoch. Its socket outlives those of the workers.
            multiprocessing.get_context(method).set_forkserver_preload([__name__])
            with blocked():
                forkserver.ensure_running()
    except OSError as error:
        raise _not_started(error) from error


def _not_started(error: Exception) -> DataError:
    hint = START_HINTS.get(_errno(error), f"lower `workers`, {_ALONE}")
    return _failed(_NOT_STARTED, ("cause", one_line(error)), ("hint", hint))


def _kill(workers: Collection[Any]) -> None:
    """Kill workers, and remove what torch leaves in shared memory where it has no space for a tensor."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
        with suppress(OSError):  # a process at its limit of open files cannot list a folder
            for file in Path("/dev/shm").glob(f"torch_{worker.pid}_*"):
                file.unlink(missing_ok=True)


def _failed(message: str, *notes: tuple[str, str]) -> DataError:
    return DataError(Problem(message, None, notes, code="worker-failed"))


def _died(workers: Sequence[Any]) -> DataError:
    codes = sorted({worker.exitcode for worker in workers if worker.exitcode is not None})
    causes = ", ".join(f"signal {-code}" if code < 0 else f"exit code {code}" for code in codes)
    message = f"the worker processes that read samples died {counted(RESTARTS + 1, 'time')} in a row ({causes})"
    folder = find_socket_folder()
    if UNSENT in codes and folder is not None and (folder / _UNSENT).is_file():
        cause, hint = (folder / _UNSENT).read_text().splitlines()
        return _failed(message, ("cause", cause), ("hint", hint))
    hints = dict.fromkeys(DEATH_HINTS.get(code, "set `workers: 0` to see the error that ends them") for code in codes)
    return _failed(message, *(("hint", hint) for hint in hints))


def _errno(error: BaseException) -> int | None:
    """The number of an error of the system, or of the one from which torch has made its own."""
    return getattr(error, "errno", None) or getattr(error.__context__, "errno", None)


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
    watch_parent(partial(end_without_waiting, 0))
    # The main process would wait forever for a batch that cannot be sent.
    Queue._on_queue_feeder_error = staticmethod(_die_of_queue)  # type: ignore[attr-defined]
    for number in (*REQUESTS, *WARNINGS):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*REQUESTS, *WARNINGS))
    torch.set_num_threads(1)


def _die_of_queue(error: Exception, _: Any) -> None:
    """In a worker: end, and leave the reason where the main process looks for it."""
    no_space = isinstance(error, (RuntimeError, OSError))  # of torch, and of the system
    hint = f"{_SHARED}, {_LESS}" if no_space else f"return tensors, strings and numbers in a batch, {_ALONE}"
    folder = find_socket_folder()
    if folder is not None:
        with suppress(OSError):
            (folder / _UNSENT).write_text(f"{one_line(error)}\n{hint}")
    os._exit(UNSENT)
