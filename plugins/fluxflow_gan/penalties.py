"""The penalty that keeps the game smooth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn


@frozen
class R1:
    """gamma / 2 E ||grad_x D(x)||^2 on real images, D(x) the *mean* of an image's patch logits.

    Mescheder et al., "Which training methods for GANs do actually converge?", 2018. The mean, for the
    gradient of a sum of patches grows with their number until the penalty silences the
    discriminator. Made for `every: 16` (lazy regularisation, Karras et al., 2020).
    """

    gamma: float = field(default=5.0, validator=validators.ge(0))
    """Strength of the penalty."""
    interval: int = field(default=1, validator=validators.ge(1))
    """Factor of the penalty; the same number as `every` makes up for the batches between."""

    def __call__(self, image: Tensor, discriminator: nn.Module) -> Tensor:
        """Give the penalty; runs the discriminator once more, on images that carry gradient."""
        return _penalty(image, discriminator, self.gamma * self.interval)


@frozen
class ProjectedR1:
    """The penalty `r1` of a discriminator that is told the context: gamma / 2 E ||grad_x D(x, context)||^2."""

    gamma: float = field(default=5.0, validator=validators.ge(0))
    """Strength of the penalty."""
    interval: int = field(default=1, validator=validators.ge(1))
    """Factor of the penalty; the same number as `every` makes up for the batches between."""

    def __call__(self, image: Tensor, discriminator: nn.Module, context_vector: Tensor) -> Tensor:
        """Give the penalty; runs the discriminator once more, on images that carry gradient."""
        return _penalty(image, discriminator, self.gamma * self.interval, context_vector)


def _penalty(image: Tensor, discriminator: nn.Module, gamma: float, *context: Any) -> Tensor:
    import torch

    x = image.detach().requires_grad_()
    with torch.enable_grad():
        score = discriminator(x, *context).mean(dim=(1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
    return 0.5 * gamma * gradient.square().sum(dim=(1, 2, 3)).mean()
