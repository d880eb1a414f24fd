"""The schedule of an update: built once its length is known, and ending with its step though the dataset changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fluxflow_registry.contracts import Position, SchedulerExtras, Stateful
from fluxflow_registry.engine.training.building import build_optimizer, build_scheduler, count_as_stepped, stepping
from fluxflow_registry.engine.training.late_start import Extent, Starts, changed_intervals, intervals
from fluxflow_registry.plan.updates import UpdatePlan


class Schedule:
    """The scheduler of an optimizer, and how many intervals it spans."""

    def __init__(
        self,
        update: UpdatePlan,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, Tensor],
        extent: Extent,
        starts: Starts,
    ) -> None:
        self._update = update
        self._optimizer = optimizer
        self._parameters = parameters
        self._extent = extent
        self._starts = starts
        extras = SchedulerExtras.of(update.scheduler.instance if update.scheduler else None)
        self._interval = extras.interval
        #: The metric that the scheduler receives after each epoch, if it looks at one.
        self._metric = extras.metric or f"{update.name}_loss"
        #: torch's scheduler; None without one, and while its length is not known.
        self.scheduler: Any = None
        #: The intervals that it spans, and those before epochs had another length, if a resumed step finds that.
        self.total = 0
        self.total_before: int | None = None
        self.start()

    def start(self) -> None:
        """Build the scheduler once it is known when the update starts: it spans what is left of the step."""
        total = intervals(self._extent, self._starts, self._interval) if self._update.scheduler else None
        if total is None:
            self.scheduler = None
        elif self.scheduler is None:
            self._build(total)

    def _build(self, total: int) -> None:
        assert self._update.scheduler is not None
        self.total = total
        self.scheduler = build_scheduler(self._update.scheduler, self._optimizer, total)

    def end_batch(self) -> None:
        """Advance a scheduler that counts batches, after its optimizer has stepped."""
        if self._interval == "batch":
            self._advance()

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Advance a scheduler that counts epochs; `metrics` are the epoch's means and evaluations."""
        if self.scheduler is None or self._interval != "epoch":
            return
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self._advance()
        elif self._metric in metrics:
            self._advance(metrics[self._metric])
        elif self._metric == f"{self._update.name}_loss":  # no value of it was finite
            self._advance(math.inf)

    def _advance(self, *metric: float) -> None:
        """Advance the scheduler by an interval, if there is one."""
        if self.scheduler is not None and self._update.scheduler is not None:
            with stepping(self._update.scheduler):
                self.scheduler.step(*metric)

    def state(self) -> dict[str, Any]:
        """The state of the scheduler and its length; empty without one."""
        if not isinstance(self.scheduler, Stateful):
            return {}
        length = {"total": self.total, "batches": self._extent.batches}
        return {"scheduler": self.scheduler.state_dict(), "schedule": length}

    def load(self, state: Mapping[str, Any], at: Position | None) -> Sequence[Mapping[str, Any]]:
        """Restore the state, after `start`; `at`: where a run resumes, whose dataset may have changed since.

        A scheduler of another length is advanced to where the saved one was. Returns what it sets in each group of the
        optimizer then, which holds once the optimizer is restored.
        """
        if self.scheduler is None or "scheduler" not in state:
            return ()
        total = self._saved_total(state.get("schedule", {}), at)
        advanced = None if total == self.total else self._advanced(state["scheduler"])
        saved, groups = (state["scheduler"], ()) if advanced is None else advanced
        self.scheduler.load_state_dict(saved)
        return groups

    def _saved_total(self, length: Mapping[str, int], at: Position | None) -> int:
        """The length of the saved scheduler; where a run resumes, that of this one is derived from it."""
        if at is None:  # a rollback
            return length.get("total", self.total)
        extent = self._extent
        # An older version has not saved its length, but it follows from the epochs that have passed.
        batches = length.get("batches") or ((at.step_batch - at.batch) // at.epoch if at.epoch else extent.batches)
        before = evolve(extent, batches=batches)
        total = length.get("total") or intervals(before, self._starts, self._interval) or self.total
        now = total if before == extent else changed_intervals(total, before, extent, self._starts, self._interval, at)
        if now != total:
            self.total_before = total
        if now != self.total:
            self._build(now)
        return total

    def _advanced(self, saved: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]] | None:
        """A scheduler of this length after as many intervals as a saved one: its state, and what it sets in each group.

        None where the length does not matter, or where it follows more than the number of intervals.
        """
        configured = self._update.scheduler
        assert configured is not None
        follows = isinstance(self.scheduler, ReduceLROnPlateau)
        if follows or "total" not in configured.component.signature.needs or "last_epoch" not in saved:
            return None
        optimizer = build_optimizer(self._update.optimizer, self._parameters)
        first = [dict(group) for group in optimizer.param_groups]
        count_as_stepped(optimizer)
        scheduler: Any = build_scheduler(configured, optimizer, self.total)
        for _ in range(int(saved["last_epoch"])):
            scheduler.step()
        groups = [
            {key: group[key] for key in group if key == "lr" or (key != "params" and group[key] != before.get(key))}
            for group, before in zip(optimizer.param_groups, first, strict=True)
        ]
        return scheduler.state_dict(), groups
