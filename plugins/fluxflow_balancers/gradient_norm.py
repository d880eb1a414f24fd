"""The weight of an adversarial loss from how hard it pulls at the last layer, compared with the other losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import FluxflowError, Gradients, Problem

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class GradientNorm:
    """Factor of a balanced loss: ||sum_i w_i grad L_i|| / (||grad L|| + delta) at one layer, in [0, clamp].

    L is the balanced loss without its weight, L_i are the losses against which it is balanced, with
    theirs. So it pulls at the layer `weight` times as hard as those together, whatever its own size:
    the adaptive weight of Esser et al., "Taming transformers for high-resolution image synthesis",
    2021. Norms have no sign: a negative generator loss keeps its direction; where L vanishes the factor
    meets `clamp`. No gradient flows through it. It costs a walk back to the layer for each loss.
    """

    layer: str
    """The parameter at which gradients are compared, the last of the decoder's, such as `expander.out.0.weight`."""
    balanced: list[str] = field(validator=validators.min_len(1))
    """Labels of the losses that get the factor, such as `hinge_generator`."""
    against: list[str] = field(factory=list)
    """Labels of the losses against which they are balanced; empty: all others that reach the layer."""
    delta: float = field(default=1e-4, validator=validators.gt(0))
    """Added to the norm of the balanced loss's gradient."""
    clamp: float = field(default=1e4, validator=validators.gt(0))
    """Greatest factor."""

    def losses(self) -> list[str]:
        """The losses that are balanced, and those against which."""
        return [*self.balanced, *self.against]

    def __call__(self, losses: Sequence[str], gradients: Gradients) -> GradientNormWeigher:
        """Hold that the layer and the losses are there, and that those that are named reach it."""
        gradients.check(self.layer, [label for label in self.losses() if label in losses])
        for label in (*self.balanced, *self.against):
            if label not in losses:
                raise ValueError(f"`{label}` is no loss of the update; it has {', '.join(losses)}")
        if both := sorted({*self.balanced} & {*self.against}):
            raise ValueError(f"`{both[0]}` cannot be balanced against itself")
        return GradientNormWeigher(self, gradients)


class GradientNormWeigher:
    """The factors of `GradientNorm`; it keeps nothing between batches."""

    def __init__(self, options: GradientNorm, gradients: Gradients) -> None:
        self.options = options
        self.gradients = gradients

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The factor of each balanced loss of this batch; none where the losses against which it is are left out.

        Raises FluxflowError where a balanced loss does not reach the layer: it could never be balanced.
        """
        options = self.options
        balanced = [label for label in options.balanced if label in losses]
        if not balanced:
            return {}
        found = self.gradients(options.layer)
        for label in balanced:
            if label not in found:
                message = f"balancer `gradient_norm`: loss `{label}` does not reach `{options.layer}`"
                raise FluxflowError(Problem(message))
        against = [label for label in found if label in (options.against or found) and label not in options.balanced]
        if not against:
            return {}
        pull = sum(self.gradients.weights[label] * found[label] for label in against[1:])
        pull = self.gradients.weights[against[0]] * found[against[0]] + pull
        return {label: self._factor(pull, found[label]) for label in balanced}

    def _factor(self, pull: Tensor, own: Tensor) -> Tensor:
        """What is not finite is no factor: such a batch is left out, and its losses are to blame, not this."""
        ratio: Tensor = pull.norm() / (own.norm() + self.options.delta)
        return ratio.nan_to_num(nan=0.0, posinf=self.options.clamp).clamp(0.0, self.options.clamp)
