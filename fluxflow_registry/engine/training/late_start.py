"""When an update and its losses start, and the length of the schedule that follows from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from fluxflow_registry.errors import Problem, counted
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import AtBatch, UpdatePlan, WhenMet
from fluxflow_registry.recipe.schema import OWN

#: Start batch of an update or a loss whose start is not known yet.
NEVER = sys.maxsize


@frozen
class Extent:
    """The most that a step can take: `epochs` of `batches`, of which `accumulate` share a step of the optimizers."""

    epochs: int
    batches: int
    accumulate: int = 1

    @property
    def total(self) -> int:
        """All its batches."""
        return self.epochs * self.batches

    @property
    def windows(self) -> int:
        """How often an optimizer can step."""
        return self.epochs * -(-self.batches // self.accumulate)

    def windows_before(self, batch: int) -> Iterator[tuple[int, int]]:
        """The windows that are closed before a batch: the first batch of each, and the one after its last."""
        for epoch in range(0, min(batch, self.total), self.batches):
            for start in range(epoch, epoch + self.batches, self.accumulate):
                end = min(start + self.accumulate, epoch + self.batches)
                if end > batch:
                    return
                yield start, end


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
        who, epochs = (
            f"step `{step.name}` accumulates {counted(step.accumulate, 'batch')}",
            "a window ends with its epoch",
        )
        message = f"{who}, but an epoch has {counted(step.batches, 'batch')}: {epochs}"
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
    if earliest is None:
        return None
    if interval == "epoch":
        return max(extent.epochs - min(earliest.values()) // extent.batches, 1)
    always = min((batch for label, batch in earliest.items() if starts.every[label] == 1), default=extent.total)
    lazy = [(batch, starts.every[label]) for label, batch in earliest.items() if starts.every[label] > 1]
    idle = sum(
        not any(_next(max(start, first), every) < end for first, every in lazy)
        for start, end in extent.windows_before(always)
    )
    return max(extent.windows - idle, 1)


def _next(batch: int, every: int) -> int:
    """The first multiple of `every` from `batch` on."""
    return -(-batch // every) * every
