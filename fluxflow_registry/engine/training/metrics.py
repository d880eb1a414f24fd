"""The metrics of a step: running totals of this epoch, one Summary for each past one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fluxflow_registry.contracts import RecentMeans, Summary


class StepMetrics:
    """Collects the metrics of batch after batch without waiting for the device.

    Values stay tensors until `fetch`, which brings all of them over in one transfer. Values that
    are not finite are logged but not counted.
    """

    def __init__(self) -> None:
        self.pending: list[Mapping[str, Tensor | float]] = []
        self.totals: dict[str, list[float]] = {}  # name: [count, sum, minimum, maximum]
        self.recent = RecentMeans()
        self.history: dict[str, list[Summary]] = {}
        #: What was counted since the last log: of a lazy loss, the value of its latest batch.
        self.latest: dict[str, float] = {}

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Record the metrics of one batch."""
        self.pending.append(metrics)

    def __copy__(self) -> StepMetrics:
        """What further batches do not change, made without waiting for the device; the history is shared."""
        copied = StepMetrics()
        copied.pending, copied.latest, copied.history = [*self.pending], {**self.latest}, self.history
        copied.totals = {name: [*total] for name, total in self.totals.items()}
        copied.recent = copy.deepcopy(self.recent)
        return copied

    def fetch(self) -> dict[str, float]:
        """Count what is pending; returns each metric's latest value since the last log, as numbers."""
        tensors = [v for metrics in self.pending for v in metrics.values() if isinstance(v, Tensor)]
        numbers = iter(torch.stack([t.float() for t in tensors]).tolist() if tensors else ())
        for metrics in self.pending:
            values = {name: next(numbers) if isinstance(v, Tensor) else v for name, v in metrics.items()}
            self.latest.update(values)
            for name, number in values.items():
                self._count(name, number)
        self.pending.clear()
        return self.latest

    def logged(self) -> dict[str, float]:
        """The latest value of each metric since the last log; starts a new log."""
        latest, self.latest = self.fetch(), {}
        return latest

    def _count(self, name: str, number: float) -> None:
        if not math.isfinite(number):
            return
        # -0.0 and not 0.0: the sum of one number is that number, whatever its sign.
        count, total, least, most = self.totals.get(name, (0, -0.0, math.inf, -math.inf))
        self.totals[name] = [count + 1, total + number, min(least, number), max(most, number)]
        self.recent.add(name, number)

    def summaries(self) -> dict[str, Summary]:
        """One Summary of the epoch for each metric."""
        self.fetch()
        return {
            name: Summary(total / count, least, most, self.recent.mean(name))
            for name, (count, total, least, most) in self.totals.items()
        }

    def close_epoch(self, summaries: Mapping[str, Summary]) -> None:
        """Add an epoch's summaries to the history, and start the next epoch."""
        self.totals.clear()
        for name, summary in summaries.items():
            self.history.setdefault(name, []).append(summary)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        self.fetch()
        return {
            "figures": self.totals,
            "latest": self.latest,
            "last": {name: list(values) for name, values in self.recent.values.items()},
            "history": {
                name: [[s.mean, s.minimum, s.maximum, s.smoothed] for s in summaries]
                for name, summaries in self.history.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore everything."""
        self.latest = dict(state["latest"])
        self.totals = {name: list(totals) for name, totals in state["figures"].items()}
        self.recent = RecentMeans()
        for name, values in state["last"].items():
            for value in values:
                self.recent.add(name, value)
        history: Mapping[str, Sequence[Sequence[float]]] = state["history"]
        self.history = {name: [Summary(*totals) for totals in rows] for name, rows in history.items()}
