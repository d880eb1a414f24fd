"""Metrics: what is measured on held-out batches, and the direction that each declares as better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from fluxflow_registry.contracts.kind import Extras, Kind, Prepared
from fluxflow_registry.contracts.value import NeedSettings

if TYPE_CHECKING:
    from torch import Tensor

#: Whether less or more of a metric is better.
Direction = Literal["lower", "higher"]

#: For the name of a metric that a step logs or measures: its direction.
Better = Callable[[str], Direction]

_Metric = TypeVar("_Metric", bound=Callable[..., Any])


class Metric(Protocol):
    """A function, or a class with options whose instances are called; its parameters name the values that it needs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | Mapping[str, Tensor]:
        """Return a 0-d tensor, or several by name; called without gradient."""


class MetricExtras(Prepared):
    """Optional members of a metric."""

    better: ClassVar[Direction | Mapping[str, Direction]] = "lower"
    """Which direction is better, where the recipe does not set it for what follows the metric; a dict of directions by
    name where it returns several."""


class Naming(Extras):
    """Optional member of what names metrics in its options: a transition or an observer."""

    def metrics(self) -> Sequence[str]:
        """Return the metrics that its options name: a recipe that does not log them is rejected.

        Those of a transition are logged or measured in its step, those of an observer logged by some update.
        """
        return ()


class Directed(Extras):
    """Optional member of what follows the direction of a metric: a transition or a scheduler."""

    def directed(self, better: Better) -> Any:
        """Return the same options with a direction in place of each that the recipe leaves to the metric."""
        return self


def higher_is_better(metric: _Metric) -> _Metric:
    """Mark a metric, a function or a class, of which more is better."""
    metric.better = "higher"  # type: ignore[attr-defined]
    return metric


METRIC = Kind("metric", "metrics", "a 0-d tensor, or several by name", Metric, MetricExtras, NeedSettings)
