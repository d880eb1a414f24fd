"""What a run has reached so far, kept in every checkpoint beyond the end of a step."""

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
    """By step: its closed epochs, the mean of each metric in each of them, and its evaluations."""

    epochs: dict[str, int] = Factory(dict)
    means: dict[str, dict[str, list[float]]] = Factory(dict)
    #: For each step, evaluation and metric: the latest value.
    results: dict[str, dict[str, dict[str, float]]] = Factory(dict)
    #: For each dataset: the samples that cannot be read, by index, and why.
    damaged: dict[str, dict[str, str]] = Factory(dict)

    def close_epoch(self, step: str, epochs: int, history: History) -> None:
        """Record that a step has closed so many epochs, with this history."""
        self.epochs[step] = epochs
        self.means[step] = {name: [summary.mean for summary in rows] for name, rows in history.items()}

    def metadata(self, position: Position, steps: Sequence[str]) -> dict[str, Any]:
        """Where the run is in counts of epochs, with all means, as JSON; a mean that is not finite is null."""
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

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the history back from the metadata of a checkpoint; an older version saved no epochs and means."""
        epochs = checkpoint.get("pipeline_metadata", {})
        metrics: Mapping[str, Mapping[str, Sequence[float | None]]] = epochs.get("step_metrics", {})
        means = {
            step: {name: [math.nan if mean is None else float(mean) for mean in means] for name, means in each.items()}
            for step, each in metrics.items()
        }
        _replace(self.epochs, {step: int(count) for step, count in epochs.get("step_epochs", {}).items()})
        _replace(self.means, means)
        _replace(self.results, checkpoint["results"])
        _replace(self.damaged, checkpoint["damaged"])


def _replace(content: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Replace the content of a mapping that others refer to."""
    content.clear()
    content.update(new)
