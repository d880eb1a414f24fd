"""Both sides of the adversarial games: hinge, non-saturating, least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import frozen

if TYPE_CHECKING:
    from torch import Tensor

#: `each`: every patch is judged, then the mean is taken. `mean`: a picture is judged by the mean of its patches.
Patches = Literal["each", "mean"]


def scores(logits: Tensor, patches: Patches) -> Tensor:
    """What is judged: all logits [B, 1, h, w] (`each`), or the mean logit of each picture, [B] (`mean`)."""
    return logits if patches == "each" else logits.flatten(1).mean(dim=1)


@frozen
class HingeDiscriminator:
    """E[relu(1 - real)] / 2 + E[relu(1 + fake)] / 2.

    With `patches: each` the relu is taken patch by patch and the mean after it, so that a picture cannot
    make up for a bad patch by a good one; with `mean` a picture's patches are averaged before the relu.
    Lim and Ye, "Geometric GAN", 2017; halved as in Esser et al., "Taming transformers", 2021.
    """

    patches: Patches = "each"
    """each: the mean over patches comes after the relu; mean: it comes before."""

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Give half the sum of both sides."""
        real = (1 - scores(real_logits, self.patches)).relu().mean()
        fake = (1 + scores(fake_logits, self.patches)).relu().mean()
        return 0.5 * (real + fake)


@frozen
class HingeGenerator:
    """-E[fake], the generator's side of the hinge game, the mean over all patches (Lim and Ye, 2017).

    It has no relu: before or after is the same. It falls below zero when the discriminator is deceived.
    `detach: [latent]` keeps it from the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Give minus the mean logit."""
        return -fake_logits.mean()


@frozen
class NonsaturatingDiscriminator:
    """E[softplus(-real)] + E[softplus(fake)] = -E[log D(x)] - E[log(1 - D(G))], D = sigmoid of a logit.

    Goodfellow et al., "Generative adversarial nets", 2014. 2 log 2 where it says nothing (all logits 0).
    """

    patches: Patches = "each"
    """each: the mean over patches comes after the softplus; mean: it comes before."""

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Give the sum of both sides."""
        from torch.nn.functional import softplus

        real = softplus(-scores(real_logits, self.patches)).mean()
        fake = softplus(scores(fake_logits, self.patches)).mean()
        return real + fake


@frozen
class NonsaturatingGenerator:
    """E[softplus(-fake)] = -E[log D(G)], whose gradient is greatest where the generator is worst (Goodfellow, 2014).

    `detach: [latent]` keeps it from the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    patches: Patches = "each"
    """each: the mean over patches comes after the softplus; mean: it comes before."""

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Give the mean over what is judged."""
        from torch.nn.functional import softplus

        return softplus(-scores(fake_logits, self.patches)).mean()


@frozen
class LeastSquaresDiscriminator:
    """E[(real - 1)^2] / 2 + E[fake^2] / 2: logits are pulled to 1 for real and to 0 for fake.

    Mao et al., "Least squares generative adversarial networks", 2017.
    """

    patches: Patches = "each"
    """each: the mean over patches comes after the square; mean: it comes before."""

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Give half the sum of both sides."""
        real = (scores(real_logits, self.patches) - 1).square().mean()
        fake = scores(fake_logits, self.patches).square().mean()
        return 0.5 * (real + fake)


@frozen
class LeastSquaresGenerator:
    """E[(fake - 1)^2] / 2: the generator's side of the least-squares game (Mao et al., 2017).

    `detach: [latent]` keeps it from the encoder.
    """

    default_weight: ClassVar[float] = 0.5

    patches: Patches = "each"
    """each: the mean over patches comes after the square; mean: it comes before."""

    def __call__(self, fake_logits: Tensor) -> Tensor:
        """Give half the mean over what is judged."""
        return 0.5 * (scores(fake_logits, self.patches) - 1).square().mean()
