"""Losses between the statistics of an image and its reconstruction, independent of the positions of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class ColorStatistics:
    """(mean_p - mean_t)^2 + (std_p - std_t)^2 over the pixels of a channel; the mean over samples and channels.

    p, t: [B, C, H, W]. The first two moments of each channel, with the population std, which describe the color of an
    image and its spread (Reinhard et al., "Color transfer between images", 2001).
    """

    default_weight: ClassVar[float] = 0.05

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the squared distance of the moments."""
        import torch

        std_p, mean_p = torch.std_mean(reconstruction, dim=(2, 3), correction=0)
        std_t, mean_t = torch.std_mean(image, dim=(2, 3), correction=0)
        return ((mean_p - mean_t).square() + (std_p - std_t).square()).mean()


@frozen
class Histogram:
    """Wasserstein-1 distance of the distributions of a channel's values: mean |sort(p) - sort(t)|.

    p, t: [B, C, H, W]. Each channel of each sample is compared with its target, then averaged over samples and
    channels. In one dimension, between equally many values, the optimal transport maps the k-th smallest value to the
    k-th smallest (Rabin et al., "Wasserstein barycenter and its application to texture mixing", 2011). There are no
    bins: each value moves towards the target value of its rank.
    """

    default_weight: ClassVar[float] = 0.02

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean distance."""
        p, t = reconstruction.flatten(2), image.flatten(2)
        return (p.sort(dim=2).values - t.sort(dim=2).values).abs().mean()


@frozen
class Contrast:
    """((std_p + eps) / (std_t + eps) - 1)^2 of each channel, plus (std_p - std_t)^2 of each whole sample.

    p, t: [B, C, H, W]. The first term is averaged over samples and channels, the second over samples; population std.
    Contrast is the standard deviation, as in the second factor of SSIM (Wang et al., 2004). eps is added on both
    sides, so that a channel that is flat in both has no loss.
    """

    default_weight: ClassVar[float] = 0.1

    eps: float = field(default=0.01, validator=validators.ge(1e-6))
    """Standard deviation below which a channel counts as flat; it bounds the loss for noise on a flat target."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the sum of both means."""
        channel_p, channel_t = (x.std(dim=(2, 3), correction=0) for x in (reconstruction, image))
        sample_p, sample_t = (x.std(dim=(1, 2, 3), correction=0) for x in (reconstruction, image))
        ratio = (channel_p - channel_t) / (channel_t + self.eps)
        return ratio.square().mean() + (sample_p - sample_t).square().mean()
