"""The losses of each adversarial game (hinge, non-saturating, least squares), and the gradient penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn

#: `each`: the loss of every patch, then the mean. `mean`: the loss of the mean logit of an image.
Patches = Literal["each", "mean"]


def scores(logits: Tensor, patches: Patches) -> Tensor:
    """The scores that enter a loss: all logits [B, 1, h, w] (`each`), or the mean logit of each image, [B] (`mean`)."""
    return logits if patches == "each" else logits.flatten(1).mean(dim=1)


@frozen
class HingeDiscriminator:
    """E[relu(1 - real)] / 2 + E[relu(1 + fake)] / 2.

    With `patches: each` the relu is applied patch by patch, before the mean, so that a good patch cannot compensate
    for a bad one; with `mean` the patches of an image are averaged before the relu. real, fake: logits [B, 1, h, w];
    0-d. Lim and Ye, "Geometric GAN", 2017; halved as in Esser et al., "Taming transformers", 2021.
    """

    patches: Patches = "each"
    """each: the mean over patches is taken after the relu; mean: before it."""

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return half the sum of both terms."""
        real = (1 - scores(real_logits, self.patches)).relu().mean()
        fake = (1 + scores(fake_logits, self.patches)).relu().mean()
        return 0.5 * (real + fake)


@frozen
class HingeGenerator:
    """-E[fake], the generator's hinge loss, the mean over all patches (Lim and Ye, 2017).

    fake: logits [B, 1, h, w]; 0-d. It has no relu, so the order of relu and mean does not matter. It is negative when
    the discriminator considers reconstructions real. `detach: [latent]` stops its gradient before the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Return minus the mean logit."""
        return -fake_logits.mean()


@frozen
class NonsaturatingDiscriminator:
    """E[softplus(-real)] + E[softplus(fake)] = -E[log D(x)] - E[log(1 - D(G))], D = sigmoid of a logit.

    real, fake: logits [B, 1, h, w]; 0-d, 2 log 2 for an undecided discriminator (all logits 0). Goodfellow et al.,
    "Generative adversarial nets", 2014.
    """

    patches: Patches = "each"
    """each: the mean over patches is taken after the softplus; mean: before it."""

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the sum of both terms."""
        from torch.nn.functional import softplus

        real = softplus(-scores(real_logits, self.patches)).mean()
        fake = softplus(scores(fake_logits, self.patches)).mean()
        return real + fake


@frozen
class NonsaturatingGenerator:
    """E[softplus(-fake)] = -E[log D(G)], whose gradient is largest where the generator is worst (Goodfellow, 2014).

    fake: logits [B, 1, h, w]; 0-d. `detach: [latent]` stops its gradient before the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    patches: Patches = "each"
    """each: the mean over patches is taken after the softplus; mean: before it."""

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Return the mean over the scores."""
        from torch.nn.functional import softplus

        return softplus(-scores(fake_logits, self.patches)).mean()


@frozen
class LeastSquaresDiscriminator:
    """E[(real - 1)^2] / 2 + E[fake^2] / 2, which pulls logits to 1 for real and to 0 for fake.

    real, fake: logits [B, 1, h, w]; 0-d. Mao et al., "Least squares generative adversarial networks", 2017.
    """

    patches: Patches = "each"
    """each: the mean over patches is taken after the square; mean: before it."""

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return half the sum of both terms."""
        real = (scores(real_logits, self.patches) - 1).square().mean()
        fake = scores(fake_logits, self.patches).square().mean()
        return 0.5 * (real + fake)


@frozen
class LeastSquaresGenerator:
    """E[(fake - 1)^2] / 2, the generator's least-squares loss (Mao et al., 2017).

    fake: logits [B, 1, h, w]; 0-d. `detach: [latent]` stops its gradient before the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    patches: Patches = "each"
    """each: the mean over patches is taken after the square; mean: before it."""

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Return half the mean over the scores."""
        return 0.5 * (scores(fake_logits, self.patches) - 1).square().mean()


@frozen
class _Penalty:
    gamma: float = field(default=5.0, validator=validators.ge(0))
    """Strength of the penalty."""
    interval: int = field(default=1, validator=validators.ge(1))
    """Factor that compensates for the batches without a penalty: set it to the `every` of the entry."""

    def _penalty(self, image: Tensor, discriminator: nn.Module, *context: Tensor) -> Tensor:
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
        return self._penalty(image, discriminator)


@frozen
class ProjectedR1(_Penalty):
    """The penalty `r1` of a discriminator that takes a context: gamma / 2 E ||grad_x D(x, context)||^2."""

    def __call__(self, image: Tensor, discriminator: nn.Module, context_vector: Tensor) -> Tensor:
        """Return the penalty; this runs the discriminator once more, on images that carry gradient."""
        return self._penalty(image, discriminator, context_vector)
