"""Constant weights, and weights that bring losses to a common scale."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor

Weigher = Callable[[Mapping[str, "Tensor"]], Mapping[str, float]]


def fixed(losses: Sequence[str]) -> Weigher:
    """Every loss keeps the weight that the recipe sets."""
    factors = dict.fromkeys(losses, 1.0)
    return lambda _: factors


def _at_least_low(inverse: Any, _: Any, high: float) -> None:
    if high < inverse.low:
        raise ValueError(f"high is {high:g}, less than low ({inverse.low:g})")


@frozen
class Inverse:
    """Factor of a loss: the mean of the losses' |running averages| over its own |average|, clamped.

    a_i = mean of the last `window` values of loss i; factor_i = clamp(mean_j |a_j| / |a_i|, low, high), and 1 if all
    are 0. It is always positive, so that a negative generator loss keeps its sign; for a vanishing loss it is `high`.
    """

    window: int = field(default=100, validator=validators.ge(1))
    """Batches of the running average."""
    low: float = field(default=0.1, validator=validators.gt(0))
    """Smallest factor."""
    high: float = field(default=10.0, validator=[validators.gt(0), _at_least_low])
    """Largest factor."""
    spare: list[str] = field(factory=list)
    """Labels of losses that are not balanced: their factor is 1, and they do not enter the mean."""

    def spared(self) -> list[str]:
        """The losses that are not balanced."""
        return list(self.spare)

    def __call__(self, losses: Sequence[str]) -> InverseWeigher:
        """Build the weigher, without history."""
        return InverseWeigher(self, [name for name in losses if name not in self.spare])


class InverseWeigher:
    """The running averages of `Inverse` and the factors that follow from them."""

    def __init__(self, options: Inverse, losses: Sequence[str]) -> None:
        self.options = options
        self.recent: dict[str, deque[float]] = {loss: deque(maxlen=options.window) for loss in losses}

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Record the losses of a batch, and return the factor of each."""
        for name in self.recent.keys() & losses.keys():
            value = float(losses[name])
            if math.isfinite(value):
                self.recent[name].append(value)
        averages = {name: abs(sum(values) / len(values)) for name, values in self.recent.items() if values}
        mean = sum(averages.values()) / max(len(averages), 1)
        # A loss that has not had a finite value so far counts as average.
        return {name: self._factor(averages.get(name, mean), mean) if name in self.recent else 1.0 for name in losses}

    def _factor(self, average: float, mean: float) -> float:
        ratio = mean / average if average else math.inf if mean else 1.0
        return min(max(ratio, self.options.low), self.options.high)

    def state_dict(self) -> dict[str, Any]:
        """The recent values."""
        return {name: list(values) for name, values in self.recent.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore the recent values."""
        for name, values in state.items():
            self.recent[name] = deque(values, maxlen=self.options.window)
