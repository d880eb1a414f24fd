"""The order of an epoch's samples, in batches of one bucket each: a function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from fluxflow_registry.contracts import Source, SourceExtras
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.errors import DataError, Location, Problem, counted
from fluxflow_registry.plan.steps import RecipePlan, StepPlan

#: Samples in an order.
Order = Sequence[int] | torch.Tensor | NDArray[np.int64]


def views_of(source: Source) -> int:
    """In how many forms each batch of a source is trained on."""
    return int(SourceExtras.of(source).views)


def buckets_of(source: Source) -> NDArray[np.int64] | None:
    """For each sample of a source the number of its bucket; None if any samples may share a batch."""
    buckets = SourceExtras.of(source).buckets
    return None if buckets is None else np.asarray(buckets, dtype=np.int64)


def names_of(source: Any, indices: Sequence[int]) -> list[str]:
    """What a source calls samples; their numbers, where it has no names for them."""
    return [str(SourceExtras.of(source).name(index)) for index in indices]


def permutation(length: int, *place: int | str) -> torch.Tensor:
    """A permutation of 0 .. length-1 that depends on its place alone."""
    generator = torch.Generator().manual_seed(derive("order", *place))
    return torch.randperm(length, generator=generator)


def epoch_order(source: Source, batch_size: int, place: tuple[int | str, ...]) -> torch.Tensor:
    """The samples of the epoch at `place`: each `batch_size` of them in a row are one batch.

    With buckets, all samples of a batch are from one bucket. The samples of each bucket are shuffled and
    divided into batches, and the batches of all buckets are shuffled: O(n log n) in a few calls, without
    reading a sample. The samples that are left over in a bucket are different ones in each epoch.
    """
    order = permutation(len(source), *place)
    buckets = buckets_of(source)
    if buckets is None:
        return order
    shuffled = order.numpy()
    narrow = buckets.astype(np.min_scalar_type(int(buckets.max(initial=0))))  # small integers are sorted in linear time
    grouped = shuffled[np.argsort(narrow[shuffled], kind="stable")]
    counts = np.bincount(buckets)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(grouped)) - starts[buckets[grouped]]  # the place of each sample in its bucket
    full = grouped[rank < (counts // batch_size * batch_size)[buckets[grouped]]]
    batches = full.reshape(-1, batch_size)
    return torch.from_numpy(batches[permutation(len(batches), "batches", *place).numpy()].reshape(-1))


@frozen
class BatchCounts:
    """How the samples of a dataset fill batches: for each bucket its samples, and its batches in an epoch."""

    samples: tuple[int, ...]
    batches: tuple[int, ...]
    names: tuple[str, ...]
    batch_size: int

    @property
    def left_over(self) -> int:
        """Samples that are in no batch of an epoch; different ones in each epoch, except in buckets that fill none."""
        return sum(self.samples) - sum(self.batches) * self.batch_size

    def in_epoch(self, max_steps: int | None) -> int:
        """The batches of an epoch, of which a step takes at most `max_steps`."""
        count = sum(self.batches)
        return count if max_steps is None else min(count, max_steps)


def batch_counts(source: Source, batch_size: int) -> BatchCounts:
    """How the samples of a source fill batches; without buckets, all samples are in a single one."""
    buckets = buckets_of(source)
    counts = [len(source)] if buckets is None else np.bincount(buckets, minlength=1).tolist()
    name_of = SourceExtras.of(source).bucket_name if buckets is not None else lambda _: "all"
    names = tuple(str(name_of(number)) for number in range(len(counts)))
    return BatchCounts(tuple(counts), tuple(count // batch_size for count in counts), names, batch_size)


def with_batches(plan: RecipePlan, sources: Mapping[str, Source]) -> RecipePlan:
    """The plan with the batches of each step, now that its data are open; raises DataError where they fill none."""
    return plan.with_batches({step.name: batches_of(step, sources[step.settings.dataset]) for step in plan.steps})


def batches_of(step: StepPlan, source: Source) -> int:
    """The batches in an epoch of a step; raises DataError where its dataset does not fill one."""
    settings, where = step.settings, step.entry.node.at("dataset")
    return batches_per_epoch(source, settings.dataset, settings.batch_size, settings.max_steps, where)


def batches_per_epoch(source: Source, name: str, batch_size: int, max_steps: int | None, where: Location) -> int:
    """Full batches in an epoch, each in all its views; raises DataError if the dataset does not fill one."""
    counts = batch_counts(source, batch_size)
    if not any(counts.batches):
        largest = f"at most {counted(max(counts.samples), 'sample')} in a bucket" if len(counts.samples) > 1 else ""
        samples = largest or counted(len(source), "sample")
        message = f"dataset `{name}` has {samples}, fewer than one batch ({batch_size})"
        raise DataError(Problem(message, where, code="out-of-range", subject=name))
    return counts.in_epoch(max_steps) * views_of(source)


def first_samples(source: Source, count: int, batch_size: int) -> tuple[Order, list[tuple[int, int]]]:
    """The first `count` samples in batches of one bucket each: an order, and the span of each batch in it.

    The other samples follow in the order, to take the places of damaged ones.
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


def first_bucket(source: Source) -> Order:
    """The samples that may share a batch with the first one, in order."""
    buckets = buckets_of(source)
    return range(len(source)) if buckets is None else np.flatnonzero(buckets == buckets[0])
