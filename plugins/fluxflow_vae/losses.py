"""Losses between an image and its reconstruction, and the KL divergence of the posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor

    from .networks import Posterior


def l1(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Mean of |reconstruction - image| over all elements."""
    from torch.nn.functional import l1_loss

    return l1_loss(reconstruction, image)


@frozen
class Mse:
    """Mean of (reconstruction - image)^2 over all elements."""

    default_weight: ClassVar[float] = 0.1

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean squared error."""
        from torch.nn.functional import mse_loss

        return mse_loss(reconstruction, image)


@frozen
class Frequency:
    """L1 of low and of high frequencies: low_weight L1(lf(p), lf(t)) + high_weight L1(hf(p), hf(t)).

    lf(x) is a 3x3 average pool with stride 1 (padding 1), hf(x) = x - lf(x). Both are linear, so each
    filter is applied once, to the difference.
    """

    low_weight: float = field(default=1.0, validator=validators.ge(0))
    """Weight of the low frequencies."""
    high_weight: float = field(default=0.5, validator=validators.ge(0))
    """Weight of the high frequencies."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the weighted sum."""
        from torch.nn.functional import avg_pool2d

        difference = reconstruction - image
        low = avg_pool2d(difference, 3, stride=1, padding=1)
        return self.low_weight * low.abs().mean() + self.high_weight * (difference - low).abs().mean()


@frozen
class Ssim:
    """1 - SSIM, the structural similarity in a Gaussian window (Wang et al., 2004).

    SSIM = (2 m_p m_t + C1)(2 s_pt + C2) / ((m_p^2 + m_t^2 + C1)(s_p^2 + s_t^2 + C2)), C1 = (0.01 L)^2,
    C2 = (0.03 L)^2, L = 2 for images in [-1, 1]; the mean over windows that lie inside the image.
    """

    window: int = field(default=11, validator=validators.ge(3))
    """Side of the window in pixels, odd; at most the image's side."""
    sigma: float = field(default=1.5, validator=validators.gt(0))
    """Standard deviation of the window in pixels."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return 1 - the mean SSIM."""
        from .similarity import ssim

        return 1 - ssim(reconstruction, image, self.window, self.sigma)


@frozen
class Multiscale:
    """(1 - mix) L1 + mix (1 - SSIM), the mean over scales 1, 1/2, 1/4, ... by average pooling.

    p, t: [B, C, H, W]; each scale halves both sides by 2x2 means. Coarse scales are sensitive to displacements of more
    than a pixel. The mixture is that of Zhao et al., "Loss functions for image restoration with neural
    networks", 2017, with SSIM in its window of 11 pixels, or the largest odd window that fits.
    """

    scales: int = field(default=3, validator=validators.ge(1))
    """Number of scales; at the coarsest the image must still have a pixel."""
    mix: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """Share of 1 - SSIM; the rest is L1."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean over the scales."""
        import torch
        from torch.nn.functional import avg_pool2d, l1_loss

        from .similarity import ssim

        height, width = image.shape[-2:]
        most = min(height, width).bit_length()
        if self.scales > most:
            raise ValueError(f"`scales` is {self.scales}, but images of {width} x {height} pixels have at most {most}")
        p, t = reconstruction, image
        by_scale = []
        for scale in range(self.scales):
            if scale:
                p, t = avg_pool2d(p, 2), avg_pool2d(t, 2)
            by_scale.append((1 - self.mix) * l1_loss(p, t) + self.mix * (1 - ssim(p, t)))
        return torch.stack(by_scale).mean()


@frozen
class Kl:
    """KL divergence of q(z|x) = N(mu, s^2) from N(0, 1): -(1 + log s^2 - mu^2 - s^2) / 2 per element.

    In nats, Posterior of two [B, C, h, w] to 0-d. With `free_bits` no element, channel or dimension is
    reduced below that value (Kingma et al., "Improved variational inference with inverse autoregressive flow",
    2016). The entry's `warmup` raises the weight over the step's first batches.
    """

    default_weight: ClassVar[float] = 1e-3

    free_bits: float = field(default=0.0, validator=validators.ge(0))
    """Nats that each element, channel or dimension may carry at no cost."""
    free_bits_per: Literal["element", "channel", "dimension"] = "element"
    """What the minimum applies to: each element, each channel's mean over batch and positions, or each dimension
    (one position of one channel), averaged over the batch."""
    reduction: Literal["mean", "sum"] = "mean"
    """Mean over all elements, or sum over a sample's elements (then the mean over the batch)."""

    def __call__(self, posterior: Posterior) -> Tensor:
        """Return the divergence."""
        mean, logvar = posterior
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp())
        if self.free_bits > 0:  # the divergence itself is never below zero
            shared = {"element": (), "channel": (0, *range(2, kl.ndim)), "dimension": (0,)}[self.free_bits_per]
            kl = (kl.mean(dim=shared, keepdim=True) if shared else kl).clamp(min=self.free_bits)
        return kl.mean() if self.reduction == "mean" else kl.mean() * mean[0].numel()
