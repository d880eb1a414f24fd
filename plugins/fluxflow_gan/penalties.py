"""The gradient penalty that keeps adversarial training smooth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn


@frozen
class _Penalty:
    gamma: float = field(default=5.0, validator=validators.ge(0))
    """Strength of the penalty."""
    interval: int = field(default=1, validator=validators.ge(1))
    """Factor of the penalty; set to the number of `every`, it compensates for the batches without a penalty."""

    def _of(self, image: Tensor, discriminator: nn.Module, *context: Tensor) -> Tensor:
        import torch

        x = image.detach().requires_grad_()
        with torch.enable_grad():
            score = discriminator(x, *context).mean(dim=(1, 2, 3)).sum()
            (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return 0.5 * (self.gamma * self.interval) * gradient.square().sum(dim=(1, 2, 3)).mean()


@frozen
class R1(_Penalty):
    """gamma / 2 E ||grad_x D(x)||^2 on real images, where D(x) is the *mean* of an image's patch logits.

    Mescheder et al., "Which training methods for GANs do actually converge?", 2018. The mean, because the
    gradient of a sum over patches grows with their number, until the penalty dominates the discriminator's loss.
    Meant for `every: 16` (lazy regularization, Karras et al., 2020).
    """

    def __call__(self, image: Tensor, discriminator: nn.Module) -> Tensor:
        """Return the penalty; this runs the discriminator once more, on images that carry gradient."""
        return self._of(image, discriminator)


@frozen
class ProjectedR1(_Penalty):
    """The penalty `r1` of a discriminator that takes a context: gamma / 2 E ||grad_x D(x, context)||^2."""

    def __call__(self, image: Tensor, discriminator: nn.Module, context_vector: Tensor) -> Tensor:
        """Return the penalty; this runs the discriminator once more, on images that carry gradient."""
        return self._of(image, discriminator, context_vector)
