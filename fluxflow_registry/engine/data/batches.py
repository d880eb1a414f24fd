"""Batches as a pure function of position: an epoch is an order of samples, a batch a slice of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.order import Order, buckets_of, epoch_order, views_of
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.errors import LISTED, DataError, FluxflowError, Problem, SampleError, counted, one_line

#: How often a batch is read anew with others in the places of damaged samples.
ATTEMPTS = 20

#: How often workers are started anew before a single batch has come from them.
RESTARTS = 3


@frozen
class Replaced:
    """A sample that could not be read, what was taken in its place, and why."""

    index: int
    instead: int
    problem: Problem


@frozen
class Batch:
    """The fields of a batch, the samples in it, and those that are not because they cannot be read.

    `view` is the number of the form in which the source shows it.
    """

    fields: Mapping[str, Any]
    indices: tuple[int, ...]
    replaced: tuple[Replaced, ...] = ()
    view: int = 0


class Reader:
    """Samples of a source in an order; what cannot be read gives its place to the next of its bucket in the order.

    What stands at a place is a function of the order and of the damage alone: not of the batch in
    which it is read, nor of the process that reads it.
    """

    def __init__(self, source: Source, order: Order, seed: int) -> None:
        self.source = source
        self.order = order
        self.seed = seed
        self.damaged: dict[int, Problem] = {}
        self.buckets = buckets_of(source)

    def read(self, start: int, stop: int) -> Batch:
        """The samples at places `start` .. `stop` - 1; raises DataError whatever goes wrong."""
        for _ in range(ATTEMPTS):
            chosen = [self._sound(place) for place in range(start, stop)]
            try:
                fields = self.source.batch(chosen, self.seed)
            except SampleError as error:
                self.damaged.update({index: error.samples[index] for index in chosen if index in error.samples})
                if not self.damaged.keys() & set(chosen):  # it complains of samples that were not asked for
                    raise DataError(error.problems) from error
            except FluxflowError:
                raise
            except Exception as error:
                shown = ", ".join(map(str, chosen[:8])) + (", ..." if len(chosen) > 8 else "")
                message = f"{type(self.source).__name__} cannot give samples {shown}: {one_line(error)}"
                raise DataError(message) from error
            else:
                return Batch(fields, tuple(chosen), self._replaced(start, chosen))
        raise DataError(list(self.damaged.values())[:LISTED])

    def _sound(self, place: int) -> int:
        """The sample at a place of the order, or the first after it that is not known to be damaged."""
        index = int(self.order[place])
        if index not in self.damaged:
            return index
        length = len(self.order)
        others = self._fellows(index) if self.buckets is not None else range(length)
        first = bisect(others, place)
        for step in range(len(others)):
            index = int(self.order[others[(first + step) % len(others)]])
            if index not in self.damaged:
                return index
        raise DataError(list(self.damaged.values())[:LISTED])

    def _fellows(self, index: int) -> NDArray[np.int64]:
        """The places of the order that hold samples of one sample's bucket."""
        assert self.buckets is not None
        order = np.asarray(self.order)
        return np.flatnonzero(self.buckets[order] == self.buckets[index])

    def _replaced(self, start: int, chosen: Sequence[int]) -> tuple[Replaced, ...]:
        asked = [int(self.order[place]) for place in range(start, start + len(chosen))]
        pairs = zip(asked, chosen, strict=True)
        return tuple(Replaced(index, given, self.damaged[index]) for index, given in pairs if index != given)


class _Epoch(Dataset[Any]):
    """Batch number i of one epoch, so that loader workers can read any of them."""

    def __init__(self, reader: Reader, batch_size: int) -> None:
        self.reader = reader
        self.batch_size = batch_size

    def __getitem__(self, number: int) -> Batch | _Failure:
        try:
            return self.reader.read(number * self.batch_size, (number + 1) * self.batch_size)
        except FluxflowError as error:
            return _Failure(error.problems)

    def run(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` .. `stop` - 1; a source that likes to read many samples at once may."""
        ahead = max(1, getattr(self.reader.source, "samples_at_once", 1) // self.batch_size)
        ahead = 1 if self.reader.buckets is not None else ahead
        size = self.batch_size
        for first in range(start, stop, ahead):
            count = min(ahead, stop - first)
            read = self.reader.read(first * size, (first + count) * size)
            for number in range(count):
                yield _part(read, slice(number * size, (number + 1) * size))


def _part(batch: Batch, which: slice) -> Batch:
    indices = batch.indices[which]
    fields = {name: field[which] for name, field in batch.fields.items()}
    return Batch(fields, indices, tuple(r for r in batch.replaced if r.instead in indices))


def epoch_batches(
    source: Source, batch_size: int, batches: int, start: int, workers: int, place: tuple[int | str, ...]
) -> Iterator[Batch]:
    """The batches `start` .. `batches` - 1 of the epoch at `place`, read by `workers` processes (0: here).

    Of a source with several views every batch is read once and shown in each; all of these are counted.
    """
    views = views_of(source)
    reader = Reader(source, epoch_order(source, batch_size, place), derive("samples", *place))
    epoch = _Epoch(reader, batch_size)
    first, last = start // views, -(-batches // views)
    read = epoch.run(first, last) if workers == 0 else _supervised(epoch, first, last, workers)
    return read if views == 1 else _shown(read, first * views, start, batches, views)


def _shown(read: Iterator[Batch], number: int, start: int, stop: int, views: int) -> Iterator[Batch]:
    """Each batch once for each view, from number `start` to `stop` - 1; the first that is read begins at `number`."""
    for batch in read:
        for view in range(views):
            if start <= number < stop:
                yield evolve(batch, view=view)
            number += 1


def _supervised(epoch: _Epoch, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """The batches as worker processes read them; where one dies, new ones go on at the cursor."""
    deaths = 0
    while start < stop:
        with _loading(epoch, range(start, stop), workers) as batches:
            try:
                for batch in batches:
                    if isinstance(batch, _Failure):
                        raise DataError(batch.problems)
                    yield batch
                    start, deaths = start + 1, 0
            except (RuntimeError, OSError, EOFError) as error:  # whatever torch stumbles over
                if not wait([worker.sentinel for worker in batches._workers], timeout=1):  # none has died
                    raise DataError(f"the processes that read samples cannot go on: {one_line(error)}") from error
                deaths += 1
                if deaths > RESTARTS:
                    raise _died(batches._workers) from error


@contextmanager
def _loading(epoch: _Epoch, numbers: range, workers: int) -> Iterator[Any]:
    """Torch's loader with its workers killed at the end: they ignore signals, and torch would wait for each."""
    loader = DataLoader(
        epoch,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_quiet_worker, os.getpid()),
        # Its own generator: a loader without one draws a seed from torch's global generator.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        batches: Any = iter(loader)
    except (OSError, RuntimeError) as error:
        raise DataError(f"no process that reads samples can be started: {one_line(error)}") from error
    # torch would raise out of whatever runs when a worker dies, in the middle of an optimizer's step for
    # one. It also finds out when the next batch is asked for, which is early enough.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield batches
    finally:
        for worker in batches._workers:
            worker.kill()
        # The old one may be locked for ever by a worker that was killed.
        batches._workers_done_event = Event()
        batches._shutdown_workers()


def _died(workers: Sequence[Any]) -> DataError:
    codes = sorted({worker.exitcode for worker in workers if worker.exitcode is not None})
    told = ", ".join(f"signal {-code}" if code < 0 else f"exit code {code}" for code in codes)
    hint = ("often", "too little memory, or too little shared memory (/dev/shm); try fewer `workers`")
    message = f"the processes that read samples have died {counted(RESTARTS + 1, 'time')} in a row ({told})"
    return DataError(Problem(message, None, (hint,)))


@frozen
class _Failure:
    """What a worker could not read; as a value, it reaches the main process without a worker's traceback."""

    problems: tuple[Problem, ...]


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet_worker(parent: int, _: int) -> None:
    """Leave signals to the main process, which ends its workers, and follow it where it dies.

    torch's worker looks after its parent too, but only between batches, and it then waits for ever to
    hand over what nobody reads any more.
    """
    Thread(target=_follow, args=(parent,), daemon=True).start()
    # A batch that cannot be handed over would be waited for in vain.
    Queue._on_queue_feeder_error = staticmethod(_cannot_hand_over)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _cannot_hand_over(error: Exception, _: Any) -> None:
    sys.stderr.write(f"a batch cannot be handed over by the process that has read it: {one_line(error)}\n")
    sys.stderr.flush()
    os._exit(70)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {
        name: field.to(device, non_blocking=True) if isinstance(field, torch.Tensor) else field
        for name, field in batch.items()
    }
