"""The batches of an epoch, by position: slices of its order, damaged samples replaced, read here or by workers."""

from __future__ import annotations

import os
import signal
import sys
import time
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fluxflow_registry.contracts import Source, SourceExtras
from fluxflow_registry.engine.data.order import Order, buckets_of, epoch_order, views_of
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.engine.run.signals import REQUESTS, WARNINGS
from fluxflow_registry.errors import LISTED, DataError, FluxflowError, Problem, SampleError, counted, listed, one_line

#: How often a batch is read with other samples in the places of damaged ones.
ATTEMPTS = 20

#: How often new workers are started before a single batch has come from them.
RESTARTS = 3


@frozen
class Replaced:
    """A damaged sample, the sample that took its place, and what is wrong with it."""

    index: int
    substitute: int
    problem: Problem


@frozen
class Batch:
    """The fields of a batch, the samples in it, and the damaged ones whose places others took.

    `view` is the number of the form in which the source shows the batch.
    """

    fields: Mapping[str, Any]
    indices: tuple[int, ...]
    replaced: tuple[Replaced, ...] = ()
    view: int = 0


class Reader:
    """Samples of a source in an order; the next sample of its bucket in the order takes the place of a damaged one.

    Which sample is read at a place depends on the order and on the damage alone: not on the batch in
    which it is read, nor on the process that reads it.
    """

    def __init__(self, source: Source, order: Order, seed: int) -> None:
        self.source = source
        self.order = order
        self.seed = seed
        self.damaged: dict[int, Problem] = {}
        self.buckets = buckets_of(source)

    def read(self, start: int, stop: int) -> Batch:
        """The samples at places `start` .. `stop` - 1; raises DataError if that many cannot be read."""
        for _ in range(ATTEMPTS):
            chosen = [self._undamaged(place) for place in range(start, stop)]
            try:
                fields = self.source.batch(chosen, self.seed)
            except SampleError as error:
                self.damaged.update({index: error.samples[index] for index in chosen if index in error.samples})
                if not self.damaged.keys() & set(chosen):  # it names samples that were not requested
                    raise DataError(error.problems) from error
            except FluxflowError:
                raise
            except Exception as error:
                name, shown = type(self.source).__name__, listed(chosen, 8)
                message = f"{name} failed to read the samples {shown}: {one_line(error)}"
                raise DataError(message, code="component-failed") from error
            else:
                pairs = zip(map(int, self.order[start:stop]), chosen, strict=True)
                replaced = tuple(
                    Replaced(index, other, self.damaged[index]) for index, other in pairs if index != other
                )
                return Batch(fields, tuple(chosen), replaced)
        raise DataError(list(self.damaged.values())[:LISTED])

    def _undamaged(self, place: int) -> int:
        """The sample at a place of the order, or the next one of its bucket that is not known to be damaged."""
        index = int(self.order[place])
        if index not in self.damaged:
            return index
        others: Sequence[int] | NDArray[np.int64] = range(len(self.order))
        if self.buckets is not None:
            others = np.flatnonzero(self.buckets[np.asarray(self.order)] == self.buckets[index])
        first = bisect(others, place)
        for step in range(len(others)):
            index = int(self.order[others[(first + step) % len(others)]])
            if index not in self.damaged:
                return index
        raise DataError(list(self.damaged.values())[:LISTED])


class _Epoch(Dataset[Any]):
    """The batches of one epoch by number, so that worker processes can read any of them."""

    def __init__(self, reader: Reader, batch_size: int) -> None:
        self.reader = reader
        self.batch_size = batch_size

    def __getitem__(self, number: int) -> Batch | Unreadable:
        try:
            return self.reader.read(number * self.batch_size, (number + 1) * self.batch_size)
        except FluxflowError as error:
            return Unreadable(error.problems)

    def run(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` .. `stop` - 1, read in this process: several at once where the source prefers that."""
        size = self.batch_size
        ahead = max(1, SourceExtras.of(self.reader.source).samples_at_once // size)
        ahead = 1 if self.reader.buckets is not None else ahead
        for first in range(start, stop, ahead):
            count = min(ahead, stop - first)
            read = self.reader.read(first * size, (first + count) * size)
            for number in range(count):
                part = slice(number * size, (number + 1) * size)
                indices = read.indices[part]
                fields = {name: field[part] for name, field in read.fields.items()}
                yield Batch(fields, indices, tuple(r for r in read.replaced if r.substitute in indices))


def epoch_batches(
    source: Source, batch_size: int, batches: int, start: int, workers: int, place: tuple[int | str, ...]
) -> Iterator[Batch]:
    """The batches `start` .. `batches` - 1 of the epoch at `place`, read by so many `workers` (0: by this process).

    Each batch of a source with several views is read once and shown in each view, and all of these are counted.
    """
    views = views_of(source)
    reader = Reader(source, epoch_order(source, batch_size, place), derive("samples", *place))
    epoch = _Epoch(reader, batch_size)
    first, last = start // views, -(-batches // views)
    read = epoch.run(first, last) if workers == 0 else read_in_workers(epoch, first, last, workers)
    shown = (evolve(batch, view=view) for batch in read for view in range(views))
    return read if views == 1 else islice(shown, start - first * views, batches - first * views)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {
        name: field.to(device, non_blocking=True) if isinstance(field, torch.Tensor) else field
        for name, field in batch.items()
    }


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
                    message = "the worker processes that read samples failed"
                    raise _failed(message, ("cause", one_line(error))) from error
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
    # Blocked in the workers until they ignore them: a signal to the whole group would kill one that has just started.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*REQUESTS, *WARNINGS))
    try:
        items: Any = iter(loader)
    except (OSError, RuntimeError) as error:
        message = "the worker processes that read samples cannot be started"
        raise _failed(message, ("cause", one_line(error)), ("hint", "lower `workers`")) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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
    for number in (*REQUESTS, *WARNINGS):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*REQUESTS, *WARNINGS))
    torch.set_num_threads(1)


def _die_of_queue(error: Exception, _: Any) -> None:
    sys.stderr.write(f"a worker process cannot send the batch that it read: {one_line(error)}\n")
    sys.stderr.flush()
    os._exit(70)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
