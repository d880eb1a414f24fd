"""What a run has reached so far, kept in every checkpoint beyond the end of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import Factory, asdict, define

from fluxflow_registry.contracts import History, Position
from fluxflow_registry.errors import to_json

#: For each step and metric: its mean over each closed epoch.
Means = Mapping[str, Mapping[str, Sequence[float]]]


@define
class RunHistory:
    """By step: its closed epochs, the mean of each metric in each of them, and its evaluations."""

    #: The digest of the recipe, its steps by name, and the digest of each dataset whose samples could change.
    recipe: str = ""
    steps: Sequence[str] = ()
    data: Mapping[str, str] = Factory(dict)
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

    def metadata(self, position: Position, step: str) -> dict[str, Any]:
        """The JSON side of a checkpoint of a step; a mean that is not finite is null."""
        current = self.steps[position.step] if position.step < len(self.steps) else None
        return {
            "position": asdict(position),
            "step": step,
            "epoch": sum(self.epochs.values()),
            "global_step": position.run_batch,
            "pipeline_metadata": {
                "current_step": position.step,
                "current_step_name": current,
                "step_start_epoch": sum(count for name, count in self.epochs.items() if name != current),
                "current_step_epoch": position.epoch,
                "step_epochs": self.epochs,
                "step_metrics": to_json(self.means),
            },
            "recipe": self.recipe,
            "results": self.results,
            "damaged": self.damaged,
            "data": self.data,
        }

    def restore(self, metadata: Mapping[str, Any]) -> None:
        """Take the history back from the metadata of a checkpoint; an older version saved no epochs and means."""
        saved = metadata.get("pipeline_metadata", {})
        means: Mapping[str, Mapping[str, Sequence[float | None]]] = saved.get("step_metrics", {})
        _replace(self.epochs, {step: int(count) for step, count in saved.get("step_epochs", {}).items()})
        _replace(
            self.means, {step: {name: list(map(_mean, row)) for name, row in of.items()} for step, of in means.items()}
        )
        _replace(self.results, metadata["results"])
        _replace(self.damaged, metadata["damaged"])


def _mean(saved: float | None) -> float:
    return math.nan if saved is None else float(saved)


def _replace(content: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Replace the content of a mapping that others refer to."""
    content.clear()
    content.update(new)
