"""Both sides of the adversarial game, and the penalty that keeps it smooth."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[relu(1 - real)] / 2 + E[relu(1 + fake)] / 2, the relu taken patch by patch before the mean.

    Lim and Ye, "Geometric GAN", 2017; halved as in Esser et al., "Taming transformers", 2021.
    """
    real = (1 - real_logits).relu().mean()
    fake = (1 + fake_logits).relu().mean()
    return 0.5 * (real + fake)


@frozen
class HingeGenerator:
    """-E[fake], the generator's side of the hinge game, the mean over all patches (Lim and Ye, 2017).

    It falls below zero when the discriminator is deceived. `detach: [latent]` keeps it from the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Give minus the mean logit."""
        return -fake_logits.mean()


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
        import torch

        x = image.detach().requires_grad_()
        with torch.enable_grad():
            score = discriminator(x).mean(dim=(1, 2, 3)).sum()
            (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return 0.5 * self.gamma * self.interval * gradient.square().sum(dim=(1, 2, 3)).mean()
