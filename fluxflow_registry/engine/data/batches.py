"""The batches of an epoch, by position: slices of its order, damaged samples replaced, read here or by workers."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fluxflow_registry.contracts import Source, SourceExtras
from fluxflow_registry.engine.data.declared import Declared
from fluxflow_registry.engine.data.order import Order, buckets_of, epoch_order, views_of
from fluxflow_registry.engine.data.workers import Unreadable, read_in_workers
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.errors import LISTED, DataError, FluxflowError, Problem, SampleError, listed, one_line
from fluxflow_registry.registry.signature import raised_in

#: How often a batch is read with other samples in the places of damaged ones.
ATTEMPTS = 20


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

    def __init__(self, source: Source, order: Order, seed: int, declared: Declared | None = None) -> None:
        self.source = source
        #: What each batch must have; None: it is not checked.
        self.declared = declared
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
                if self.declared is not None:
                    self.declared.check(fields, len(chosen), self.source)
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

    def __str__(self) -> str:
        return f"the source `{type(self.reader.source).__name__}`"

    def __getitem__(self, number: int) -> Batch | Unreadable:
        try:
            return self.reader.read(number * self.batch_size, (number + 1) * self.batch_size)
        except FluxflowError as error:
            return Unreadable(error.problems)
        except SystemExit as error:  # it would end the worker, whose message nobody sees
            message = f"{self} ended the process: sys.exit({error.code!r})"
            return Unreadable((Problem(message, raised_in(error), code="component-failed"),))

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
    source: Source,
    batch_size: int,
    batches: int,
    start: int,
    workers: int,
    place: tuple[int | str, ...],
    declared: Declared | None = None,
) -> Iterator[Batch]:
    """The batches `start` .. `batches` - 1 of the epoch at `place`, read by so many `workers` (0: by this process).

    Each batch of a source with several views is read once and shown in each view, and all of these are counted.
    """
    views, start = views_of(source), min(start, batches)  # the dataset may have lost samples since that batch
    reader = Reader(source, epoch_order(source, batch_size, place), derive("samples", *place), declared)
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
