"""The order of an epoch's samples: a function of the seed and the place, in batches of one bucket each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.errors import DataError, Location, Problem, counted

#: Samples in an order.
Order = Sequence[int] | torch.Tensor | NDArray[np.int64]

#: How many samples that are left out are named in a warning.
NAMED = 8


def views_of(source: Source) -> int:
    """In how many forms each batch of a source is trained on."""
    return int(getattr(source, "views", 1))


def buckets_of(source: Source) -> NDArray[np.int64] | None:
    """For each sample of a source the number of its bucket; None where any may be in one batch with any."""
    stated = getattr(source, "buckets", None)
    return None if stated is None else np.asarray(stated, dtype=np.int64)


def permutation(length: int, *place: int | str) -> torch.Tensor:
    """A permutation of 0 .. length-1 that depends on its place alone."""
    generator = torch.Generator().manual_seed(derive("order", *place))
    return torch.randperm(length, generator=generator)


def epoch_order(source: Source, batch_size: int, place: tuple[int | str, ...]) -> torch.Tensor:
    """The samples of the epoch at `place`, of which each `batch_size` in a row are one batch.

    With buckets, each batch lies in one of them. The samples of a bucket are shuffled and dealt into
    batches, and the batches of all buckets are shuffled: O(n log n) in a few calls, and nothing is
    read. The samples that are left over in each bucket are other ones in each epoch.
    """
    order = permutation(len(source), *place)
    buckets = buckets_of(source)
    if buckets is None:
        return order
    shuffled = order.numpy()
    narrow = buckets.astype(np.min_scalar_type(int(buckets.max(initial=0))))  # short numbers are sorted in linear time
    grouped = shuffled[np.argsort(narrow[shuffled], kind="stable")]
    counts = np.bincount(buckets)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(grouped)) - starts[buckets[grouped]]  # the how many-th of its bucket
    full = grouped[rank < (counts // batch_size * batch_size)[buckets[grouped]]]
    batches = full.reshape(-1, batch_size)
    return torch.from_numpy(batches[permutation(len(batches), "batches", *place).numpy()].reshape(-1))


@frozen
class Filling:
    """How the samples of a dataset fill batches: of each bucket its samples and its batches in an epoch."""

    samples: tuple[int, ...]
    batches: tuple[int, ...]
    names: tuple[str, ...]
    batch_size: int

    @property
    def left_over(self) -> int:
        """Samples that are in no batch of an epoch; other ones in each, but for buckets that fill none."""
        return sum(self.samples) - sum(self.batches) * self.batch_size

    def told(self) -> str | None:
        """What of it a user has to know: buckets without a batch, and how much an epoch leaves out."""
        if not self.left_over:
            return None
        whole = sum(self.samples)
        message = f"an epoch leaves out {self.left_over:,} of {counted(whole, 'sample')}, which fill no batch"
        never = [
            f"{name} ({number:,})"
            for name, number, batches in zip(self.names, self.samples, self.batches, strict=True)
            if number and not batches
        ]
        if never:
            less = f"less than a batch of {self.batch_size}"
            message += f"; never trained on, as the bucket has {less}: {', '.join(never)}"
        return message


def left_out(problems: Sequence[Problem]) -> str:
    """The samples that were found damaged on opening: how many, and the first of them by name."""
    shown = [f"    {line}" for problem in problems[:NAMED] for line in str(problem).splitlines()]
    more = [f"    and {len(problems) - NAMED:,} more"] if len(problems) > NAMED else []
    listed = ["    all are listed by `fluxflow-run RECIPE --inspect-data`"]
    return "\n".join([f"{counted(len(problems), 'sample')} cannot be read and are left out", *shown, *more, *listed])


def filling(source: Source, batch_size: int) -> Filling:
    """How the samples of a source fill batches; without buckets as a single one."""
    buckets = buckets_of(source)
    counts = [len(source)] if buckets is None else np.bincount(buckets, minlength=1).tolist()
    named = getattr(source, "bucket_name", str) if buckets is not None else lambda _: "all"
    names = tuple(str(named(number)) for number in range(len(counts)))
    return Filling(tuple(counts), tuple(count // batch_size for count in counts), names, batch_size)


def batches_per_epoch(source: Source, name: str, batch_size: int, max_steps: int | None, where: Location) -> int:
    """Full batches in an epoch, each in all its views; raises DataError where the dataset does not fill one."""
    filled = filling(source, batch_size)
    count = sum(filled.batches)
    if count == 0:
        most = f"{max(filled.samples):,} samples of one bucket at most" if len(filled.samples) > 1 else ""
        message = f"dataset `{name}` has {most or f'{len(source)} samples'}, which is no batch of {batch_size}"
        raise DataError(Problem(message, where))
    return (count if max_steps is None else min(count, max_steps)) * views_of(source)


def first_samples(source: Source, count: int, batch_size: int) -> tuple[Order, list[tuple[int, int]]]:
    """The first `count` samples in batches of one bucket each: an order, and the places in it that are a batch.

    Behind them the order holds all others, which take the places of those that cannot be read.
    """
    buckets = buckets_of(source)
    if buckets is None:
        spans = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        return range(len(source)), spans
    chosen = np.argsort(buckets[:count], kind="stable")
    ends = np.cumsum(np.bincount(buckets[:count])).tolist()
    spans = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        spans += [(place, min(place + batch_size, end)) for place in range(start, end, batch_size)]
    return np.concatenate([chosen, np.arange(count, len(source))]), spans


def alike(source: Source) -> Order:
    """The samples that may be in one batch with the first one, in order."""
    buckets = buckets_of(source)
    return range(len(source)) if buckets is None else np.flatnonzero(buckets == buckets[0])
