"""What the steps of a run have reached, epoch by epoch: kept in every checkpoint beyond the end of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import Factory, define

from fluxflow_registry.contracts import History, Position
from fluxflow_registry.errors import to_json

#: For each step and metric: its mean over each closed epoch.
Means = Mapping[str, Mapping[str, Sequence[float]]]


@define
class RunHistory:
    """Epochs that were closed, and the mean of each metric in each of them, by step."""

    epochs: dict[str, int] = Factory(dict)
    means: dict[str, dict[str, list[float]]] = Factory(dict)

    def close_epoch(self, step: str, epochs: int, history: History) -> None:
        """Take in that a step has done so many epochs, with this history."""
        self.epochs[step] = epochs
        self.means[step] = {name: [summary.mean for summary in rows] for name, rows in history.items()}

    def metadata(self, position: Position, steps: Sequence[str]) -> dict[str, Any]:
        """Where the run stands in counts of epochs, with all means, as JSON; what is no number is null."""
        name = steps[position.step] if position.step < len(steps) else None
        before = sum(count for step, count in self.epochs.items() if step != name)
        return {
            "current_step": position.step,
            "current_step_name": name,
            "step_start_epoch": before,
            "current_step_epoch": position.epoch,
            "step_epochs": self.epochs,
            "step_metrics": to_json(self.means),
        }

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> RunHistory:
        """The chronicle that `metadata` has written; an empty one where an older version has written none."""
        metrics: Means = metadata.get("step_metrics", {})
        return cls(
            epochs={step: int(count) for step, count in metadata.get("step_epochs", {}).items()},
            means={
                step: {
                    metric: [math.nan if mean is None else float(mean) for mean in means] for metric, means in m.items()
                }
                for step, m in metrics.items()
            },
        )
