"""Worker processes that read batches: supervised, replaced where they die, killed at the end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from threading import Event, Thread
from typing import Any

import torch
from attrs import frozen
from torch.utils.data import DataLoader, Dataset

from fluxflow_registry.errors import DataError, Problem, counted, one_line

#: How often new workers are started before a single batch has come from them.
RESTARTS = 3


@frozen
class Unreadable:
    """A batch that cannot be read; as a value, it reaches the main process without a worker's traceback."""

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
                    raise _failed(
                        "the worker processes that read samples failed", ("cause", one_line(error))
                    ) from error
                deaths += 1
                if deaths > RESTARTS:
                    raise _died(items._workers) from error


@contextmanager
def _loading(dataset: Dataset[Any], numbers: range, workers: int) -> Iterator[Any]:
    """Torch's loader with its workers killed at the end: they ignore signals, and torch would wait for each."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=partial(_prepare_worker, os.getpid()),
        # Its own generator: a loader without one draws a seed from torch's global generator.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        items: Any = iter(loader)
    except (OSError, RuntimeError) as error:
        message = "the worker processes that read samples cannot be started"
        raise _failed(message, ("cause", one_line(error)), ("hint", "lower `workers`")) from error
    # When a worker dies, torch would raise from whatever code runs, such as an optimizer's step. Without its
    # handler it notices when the next batch is requested, which is early enough.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield items
    finally:
        for worker in items._workers:
            worker.kill()
        # The event that torch would set may be locked forever by a worker that was killed.
        items._workers_done_event = Event()
        items._shutdown_workers()


def _failed(message: str, *notes: tuple[str, str]) -> DataError:
    return DataError(Problem(message, None, notes, code="worker-failed"))


def _died(workers: Sequence[Any]) -> DataError:
    codes = sorted({worker.exitcode for worker in workers if worker.exitcode is not None})
    causes = ", ".join(f"signal {-code}" if code < 0 else f"exit code {code}" for code in codes)
    message = f"the worker processes that read samples died {counted(RESTARTS + 1, 'time')} in a row ({causes})"
    hint = "free memory or shared memory (/dev/shm, which is often small), or lower `workers`"
    return _failed(message, ("hint", hint))


def _unchanged(item: Any) -> Any:
    return item


def _prepare_worker(parent: int, _: int) -> None:
    """Leave signals to the main process, which kills its workers, and die with it.

    torch's worker checks on its parent too, but only between batches; it then waits forever to send
    a batch that nobody receives.
    """
    Thread(target=_die_with, args=(parent,), daemon=True).start()
    # The main process would wait forever for a batch that cannot be sent.
    Queue._on_queue_feeder_error = staticmethod(_die_of_queue)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _die_of_queue(error: Exception, _: Any) -> None:
    sys.stderr.write(f"a worker process cannot send the batch that it read: {one_line(error)}\n")
    sys.stderr.flush()
    os._exit(70)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
