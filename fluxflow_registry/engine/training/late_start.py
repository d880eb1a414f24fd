"""When an update and its losses start, and how long their scheduler is for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from fluxflow_registry.errors import Problem, counted
from fluxflow_registry.plan.checked import CheckedStep, CheckedUpdate, called
from fluxflow_registry.recipe.schema import OWN


@frozen
class Extent:
    """How long a step is at most: `epochs` of `batches`, of which `accumulate` share a step of the optimizers."""

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
    """Since which batch of the step an update and each of its losses count; None for what still waits.

    What starts by a condition is decided after an epoch and kept in checkpoints; what starts at a batch is not.
    """

    def __init__(self, checked: CheckedUpdate) -> None:
        self.every = {label: loss.entry.settings.every if loss.entry else 1 for label, loss in checked.losses.items()}
        starts = checked.starts
        self.conditions = {name: start.condition for name, start in starts.items() if start.condition is not None}
        self.stated = {name: start.batch for name, start in starts.items() if start.condition is None}
        #: What has started by its condition: since which batch.
        self.met: dict[str, int] = {}
        self._settle()

    def since(self, label: str) -> int | None:
        """The batch from which on a loss counts, where that is known: the later of its own start and its update's."""
        return self._since[label]

    def counts(self, label: str, step_batch: int) -> bool:
        """Whether a loss is computed on a batch of the step."""
        since = self._since[label]
        return since is not None and step_batch >= since and step_batch % self.every[label] == 0

    def started(self, step_batch: int) -> bool:
        """Whether some loss counts on a batch of the step, or between two of its batches where it is lazy."""
        return self._soonest is not None and self._soonest <= step_batch

    def waiting(self) -> list[str]:
        """What is to be asked about: losses, or the update, whose condition has not held yet."""
        return [name for name in self.conditions if name not in self.met]

    def idle(self, step_batch: int) -> list[str]:
        """What has not been computed on the first `step_batch` batches of the step: losses, or OWN for all of them."""
        labels = [label for label in self.every if self.firsts.get(label, step_batch) >= step_batch]
        return [OWN] if len(labels) == len(self.every) else labels

    def meet(self, name: str, step_batch: int) -> None:
        """The condition of a loss, or of the update, holds: it starts with this batch."""
        self.met[name] = step_batch
        self._settle()

    def earliest(self) -> dict[str, int] | None:
        """For each loss the first batch on which it can be computed; None while nobody can tell.

        It stays what it was when it was first known, so that a run that goes on makes the same scheduler again. Of
        losses that wait for a condition it supposes the soonest: a schedule is never shorter than what it is for.
        """
        own = self.stated.get(OWN, self.met.get(OWN))
        met = [batch for name, batch in self.met.items() if name != OWN]
        certain = any(label in self.stated for label in self.every)
        if own is None or not (certain or met):
            return None
        soonest = own if certain else max(own, min(met))
        return {label: _next(max(soonest, self.stated.get(label, 0)), every) for label, every in self.every.items()}

    def state(self) -> dict[str, int]:
        """What has started by its condition, and since when."""
        return dict(self.met)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.met = {name: int(batch) for name, batch in state.items()}
        self._settle()

    def _settle(self) -> None:
        """Work out what follows from the starts that are known: it is asked for on every batch, and seldom changes."""
        known = {**self.stated, **self.met}
        own = known.get(OWN)
        self._since = {
            label: None if own is None or label not in known else max(own, known[label]) for label in self.every
        }
        sure = {label: since for label, since in self._since.items() if since is not None}
        self._soonest = min(sure.values(), default=None)
        #: For each loss of which it is known: the first batch on which it is computed.
        self.firsts = {label: _next(since, self.every[label]) for label, since in sure.items()}
        #: The first of all of them.
        self.first = min(self.firsts.values(), default=None)


def too_late(step: CheckedStep, batches: int) -> Iterator[Problem]:
    """Updates and losses that start behind the last of the `batches` that a step has at most: they never count."""
    ended = f"step `{step.name}` has {counted(batches, 'batch')} at most"
    for update in step.updates.values():
        starts, stated = Starts(update), step.step.updates[update.name]
        firsts = {label: first for label, first in starts.firsts.items() if first >= batches}
        own = starts.stated.get(OWN, 0)
        for name, first in ({OWN: own} if own >= batches else firsts).items():
            node = stated.losses[name].node if name != OWN and starts.stated[name] else stated.node
            message = f"{called(update.name, name)} never counts: its first batch would be {first}, and {ended}"
            yield Problem(message, node.at("start"))


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
