"""When an update and its losses start, and the length of the schedule that follows from it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import gcd, lcm
from typing import Any

from attrs import evolve, frozen

from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import Problem, counted
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import AtBatch, UpdatePlan, WhenMet
from fluxflow_registry.recipe.schema import OWN

#: Start batch of an update or a loss whose start is not known yet.
NEVER = sys.maxsize


@frozen
class Extent:
    """The most that a step can take: `epochs` of `batches`, of which `accumulate` share a step of the optimizers.

    Of a step that has begun, `start` is the batch with which the first of these epochs starts.
    """

    epochs: int
    batches: int
    accumulate: int = 1
    start: int = 0

    @property
    def end(self) -> int:
        """The batch of the step after the last."""
        return self.start + self.epochs * self.batches

    @property
    def windows(self) -> int:
        """How often an optimizer can step in an epoch."""
        return -(-self.batches // self.accumulate)

    def left(self, position: Position) -> Extent:
        """What is left of the whole step at a position, with the epoch that is being trained, unless that is over."""
        if position.batch >= self.batches:  # more, where the dataset has lost samples since
            return evolve(self, epochs=self.epochs - position.epoch - 1, start=position.step_batch)
        return evolve(self, epochs=self.epochs - position.epoch, start=position.step_batch - position.batch)

    def window_at(self, batch: int) -> tuple[int, int]:
        """The window that contains a batch: its first batch, and the one after its last."""
        epoch = batch - (batch - self.start) % self.batches
        first = batch - (batch - epoch) % self.accumulate
        return first, min(first + self.accumulate, epoch + self.batches)


class Starts:
    """The batch of the step from which an update and each of its losses are active; NEVER for what still waits.

    What starts on a condition is decided after an epoch and kept in checkpoints; what starts at a batch is not.
    """

    def __init__(self, update: UpdatePlan) -> None:
        self.every = {label: loss.every for label, loss in update.losses.items()}
        starts = update.starts
        self.conditions = {name: start.condition for name, start in starts.items() if isinstance(start, WhenMet)}
        #: What starts at a batch.
        self.planned = {name: start.batch for name, start in starts.items() if isinstance(start, AtBatch)}
        #: What has started by its condition: since which batch.
        self.met: dict[str, int] = {}
        self._derive()

    def counts(self, label: str, step_batch: int) -> bool:
        """Whether a loss is computed on a batch of the step."""
        return step_batch >= self.since[label] and step_batch % self.every[label] == 0

    def started(self, step_batch: int) -> bool:
        """Whether some loss is active at a batch of the step; a lazy one also between two of its batches."""
        return self._soonest <= step_batch

    def waiting(self) -> list[str]:
        """What still waits: losses, or the update, whose condition has not been met."""
        return [name for name in self.conditions if name not in self.met]

    def idle(self, step_batch: int) -> list[str]:
        """What has not been computed on the first `step_batch` batches of the step: losses, or OWN for all of them."""
        labels = [label for label in self.every if self.firsts.get(label, step_batch) >= step_batch]
        return [OWN] if len(labels) == len(self.every) else labels

    def meet(self, name: str, step_batch: int) -> None:
        """Start a loss, or the update, whose condition is met, with this batch."""
        self.met[name] = step_batch
        self._derive()

    def earliest(self) -> dict[str, int] | None:
        """For each loss the first batch on which it can be computed; None while that is unknown.

        It stays what it was when it was first known, so that a resumed run builds the same scheduler again. Of losses
        that wait for a condition it assumes the soonest: a schedule is never too short.
        """
        own = self.planned.get(OWN, self.met.get(OWN))
        met = [batch for name, batch in self.met.items() if name != OWN]
        certain = any(label in self.planned for label in self.every)
        if own is None or not (certain or met):
            return None
        soonest = own if certain else max(own, min(met))
        return {label: _next(max(soonest, self.planned.get(label, 0)), every) for label, every in self.every.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what has started by its condition, and since when."""
        self.met = {name: int(batch) for name, batch in state.items()}
        self._derive()

    def _derive(self) -> None:
        """Derive what follows from the known starts: it is needed on every batch, and seldom changes."""
        known = {**self.planned, **self.met}
        own = known.get(OWN, NEVER)
        #: The batch at which each loss becomes active: the later of its own start and its update's.
        self.since = {label: max(own, known.get(label, NEVER)) for label in self.every}
        self._soonest = min(self.since.values(), default=NEVER)
        #: For each loss of which it is known: the first batch on which it is computed.
        self.firsts = {label: _next(at, self.every[label]) for label, at in self.since.items() if at < NEVER}
        #: The first of all of them.
        self.first = min(self.firsts.values(), default=NEVER)


def without_effect(step: StepPlan) -> Iterator[Problem]:
    """What never takes effect in a step: updates and losses that start after its last batch, and long accumulation."""
    batches = step.epochs * step.batches
    if step.accumulate > step.batches:
        window, epoch = counted(step.accumulate, "batch"), counted(step.batches, "batch")
        message = f"step `{step.name}` accumulates {window}, but an epoch has {epoch}: a window ends with its epoch"
        yield Problem(message, step.entry.node.at("accumulate"), code="unused", subject="accumulate")
    for update in step.updates.values():
        starts = Starts(update)
        firsts = {label: first for label, first in starts.firsts.items() if first >= batches}
        own = starts.planned.get(OWN, 0)
        for name, first in ({OWN: own} if own >= batches else firsts).items():
            node = update.entry.losses[name].node if name != OWN and starts.planned[name] else update.entry.node
            ended = f"step `{step.name}` ends at batch {batches:,} at the latest"
            message = f"{update.title(name)} would never take effect: it starts at batch {first:,}, but {ended}"
            yield Problem(message, node.at("start"), code="unused", subject=name or update.name)


def intervals(extent: Extent, starts: Starts, interval: str) -> int | None:
    """How many intervals a scheduler counts: windows in which its optimizer steps, or epochs from its first one on.

    None while it is not known when the update starts.
    """
    earliest = starts.earliest()
    return None if earliest is None else max(_count(extent, earliest, starts.every, interval, extent.start), 1)


def changed_intervals(total: int, before: Extent, now: Extent, starts: Starts, interval: str, at: Position) -> int:
    """The length of a schedule of `total` intervals whose epochs have another length from a position on.

    It ends with the step, as it would have before: what has passed stays, and what is left is counted again.
    """
    earliest = starts.earliest()
    assert earliest is not None  # the schedule exists
    old, new = (_count(each.left(at), earliest, starts.every, interval, at.step_batch) for each in (before, now))
    return max(total + new - old, 1)


def _count(extent: Extent, earliest: Mapping[str, int], every: Mapping[str, int], interval: str, since: int) -> int:
    """The intervals of an extent from a batch on, which is in its first epoch."""
    if interval == "epoch":
        return max(extent.epochs - max(min(earliest.values()) - extent.start, 0) // extent.batches, 0)
    always = min([extent.end, *(batch for label, batch in earliest.items() if every[label] == 1)])
    lazy = [(batch, every[label]) for label, batch in earliest.items() if every[label] > 1]
    passed = (since - extent.start) // extent.accumulate
    return extent.epochs * extent.windows - passed - _idle(extent, lazy, since, always)


def _idle(extent: Extent, lazy: Sequence[tuple[int, int]], at: int, until: int) -> int:
    """The windows between two batches in which no lazy loss is computed; each has a first batch and an interval.

    An epoch may have 10^10 batches, so they are not counted one by one: between the first batches of the losses, they
    repeat.
    """
    idle = 0
    for boundary in sorted({until, *(first for first, _ in lazy if first < until)}):
        if boundary > at:
            active = [every for first, every in lazy if first <= at]
            idle += _idle_before(extent, active, boundary) - _idle_before(extent, active, at)
            first, end = extent.window_at(boundary)
            at = boundary if first == boundary else end
            if first < boundary < until and end <= until:  # a loss starts within this window
                idle += not any(_next(max(first, start), each) < end for start, each in lazy)
    return idle


def _idle_before(extent: Extent, every: Sequence[int], batch: int) -> int:
    """The windows before a batch that contain no multiple of any number in `every`."""
    if extent.accumulate == 1:
        return batch - extent.start - _multiples(every, batch) + _multiples(every, extent.start)
    size, common = extent.accumulate, lcm(*every)

    def is_idle(first: int, end: int) -> bool:
        return not any(_next(first, each) < end for each in every)

    def in_epoch(start: int, windows: int) -> int:
        whole = min(windows, extent.batches // size)
        idle = _repeated(
            lambda n: is_idle(start + n * size, start + (n + 1) * size), whole, common // gcd(common, size)
        )
        return idle + (windows > whole and is_idle(start + whole * size, start + extent.batches))

    epochs, rest = divmod(batch - extent.start, extent.batches)
    period = common // gcd(common, extent.batches)
    idle = _repeated(lambda n: in_epoch(extent.start + n * extent.batches, extent.windows), epochs, period)
    return idle + in_epoch(extent.start + epochs * extent.batches, rest // size)


def _multiples(every: Sequence[int], batch: int) -> int:
    """How many numbers from 0 to `batch` - 1 are multiples of some number in `every`, by inclusion and exclusion."""
    sets = [each for size in range(1, len({*every}) + 1) for each in combinations({*every}, size)]
    return sum(-(-batch // lcm(*each)) * (1 if len(each) % 2 else -1) for each in sets)


def _repeated(count: Callable[[int], int], number: int, period: int) -> int:
    """The sum of `count(0)` ... `count(number - 1)`, where `count` repeats after `period`."""
    times, rest = divmod(number, period)
    partial = sum(map(count, range(rest)))
    return partial + times * (partial + sum(map(count, range(rest, period)))) if times else partial


def _next(batch: int, every: int) -> int:
    """The first multiple of `every` from `batch` on."""
    return -(-batch // every) * every
