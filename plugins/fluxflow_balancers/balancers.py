"""Balancers: constant weights, a common scale for all losses, and equal gradients at one layer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from fluxflow_registry import FluxflowError, Gradients, Weigher

if TYPE_CHECKING:
    from torch import Tensor


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
    A balancer of our own.
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


@frozen
class GradientNorm:
    """Factor of a balanced loss: ||sum_i w_i grad L_i|| / (||grad L|| + delta) at one layer, in [0, clamp].

    L is the balanced loss without its weight, L_i are the losses against which it is balanced, with weights w_i. At
    the layer, the gradient of the balanced loss is then `weight` times as large as that of those losses together,
    whatever its own scale: the adaptive weight of Esser et al., "Taming transformers for high-resolution image
    synthesis", 2021. Norms have no sign, so a negative generator loss keeps its direction; if the gradient of L
    vanishes, the factor is `clamp`. No gradient flows through it. It costs a backward pass to the layer per loss.
    """

    layer: str
    """The parameter at which gradients are compared: the decoder's last, such as `expander.out.0.weight`."""
    balanced: list[str] = field(validator=validators.min_len(1))
    """Labels of the losses that are multiplied by the factor, such as `hinge_generator`."""
    against: list[str] = field(factory=list)
    """Labels of the losses against which they are balanced; empty: all others that reach the layer."""
    delta: float = field(default=1e-4, validator=validators.gt(0))
    """Constant that is added to the norm of the balanced loss's gradient."""
    clamp: float = field(default=1e4, validator=validators.gt(0))
    """Largest factor."""

    def losses(self) -> list[str]:
        """The losses that are balanced, and those against which they are balanced."""
        return [*self.balanced, *self.against]

    def __call__(self, losses: Sequence[str], gradients: Gradients) -> GradientNormWeigher:
        """Build the weigher; raises FluxflowError or ValueError if the layer or a loss cannot be used."""
        gradients.check(self.layer, [label for label in self.losses() if label in losses])
        for label in self.losses():
            if label not in losses:
                raise ValueError(f"the update has no loss `{label}`; its losses are {', '.join(losses)}")
        if both := sorted({*self.balanced} & {*self.against}):
            raise ValueError(f"loss `{both[0]}` cannot be balanced against itself")
        return GradientNormWeigher(self, gradients)


class GradientNormWeigher:
    """The factors of `GradientNorm`, without state between batches."""

    def __init__(self, options: GradientNorm, gradients: Gradients) -> None:
        self.options = options
        self.gradients = gradients

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The factor of each balanced loss of this batch; empty if the batch has nothing to balance it against.

        Raises FluxflowError for a balanced loss whose gradient does not reach the layer.
        """
        options = self.options
        balanced = [label for label in options.balanced if label in losses]
        if not balanced:
            return {}
        gradients, weights = self.gradients(options.layer), self.gradients.weights
        for label in balanced:
            if label not in gradients:
                message = f"balancer `gradient_norm`: the gradient of loss `{label}` does not reach `{options.layer}`"
                raise FluxflowError(message, code="not-reached", subject=label)
        others = options.against or gradients
        against = [label for label in gradients if label in others and label not in options.balanced]
        if not against:
            return {}
        rest = sum(weights[label] * gradients[label] for label in against[1:])
        combined = weights[against[0]] * gradients[against[0]] + rest
        return {label: self._factor(combined, gradients[label]) for label in balanced}

    def _factor(self, combined: Tensor, own: Tensor) -> Tensor:
        """A factor that is always finite: a batch with losses that are not finite is skipped because of those."""
        ratio: Tensor = combined.norm() / (own.norm() + self.options.delta)
        return ratio.nan_to_num(nan=0.0, posinf=self.options.clamp).clamp(0.0, self.options.clamp)
