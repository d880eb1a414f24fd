"""Losses between an image and its reconstruction, and between the latents and their prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .networks import Posterior


def l1(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Mean of |reconstruction - image| over all elements: two [B, C, H, W] to 0-d."""
    from torch.nn.functional import l1_loss

    return l1_loss(reconstruction, image)


@frozen
class Mse:
    """Mean of (reconstruction - image)^2 over all elements: two [B, C, H, W] to 0-d."""

    default_weight: ClassVar[float] = 0.1

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean squared error."""
        from torch.nn.functional import mse_loss

        return mse_loss(reconstruction, image)


@frozen
class Frequency:
    """L1 of low and of high frequencies: low_weight L1(lf(p), lf(t)) + high_weight L1(hf(p), hf(t)).

    p: the reconstruction, t: the image, [B, C, H, W]; 0-d. lf(x) is a 3x3 average pool with stride 1 (padding 1),
    hf(x) = x - lf(x). Both are linear, so each filter is applied once, to the difference. A loss of our own.
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


def odd(_: Any, attribute: Attribute[int], window: int) -> None:
    """Require a window to be odd, and at least 3: the validator of attrs."""
    if window < 3 or window % 2 == 0:
        raise ValueError(f"{attribute.name} is {window}: it must be odd and at least 3")


@frozen
class Ssim:
    """1 - SSIM, the structural similarity in a Gaussian window (Wang et al., 2004).

    SSIM = (2 m_p m_t + C1)(2 s_pt + C2) / ((m_p^2 + m_t^2 + C1)(s_p^2 + s_t^2 + C2)), C1 = (0.01 L)^2,
    C2 = (0.03 L)^2, L = 2 for images [B, C, H, W] in [-1, 1]; the mean over windows that lie inside the image, 0-d.
    """

    window: int = field(default=11, validator=odd)
    """Side of the window in pixels, odd; reduced to the largest that fits a smaller image."""
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


@frozen
class Spectral:
    """Mean of |F(p) - F(t)| over all frequencies of the half plane, F the orthonormal real Fourier transform.

    p, t: [B, C, H, W]; F: [B, C, H, W // 2 + 1], complex, so that phase counts as well as magnitude. The transform is
    linear and is applied once, to the difference. It preserves energy (Parseval), but L1 weighs weak high frequencies
    more than a square does (Jiang et al., "Focal frequency loss", 2021, has the squared form).
    """

    default_weight: ClassVar[float] = 0.1

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean magnitude of the difference."""
        import torch

        spectrum: Tensor = torch.fft.rfft2(reconstruction - image, norm="ortho")
        return spectrum.abs().mean()


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


@frozen
class Mmd:
    """Squared maximum mean discrepancy of latents x and prior samples y: E k(x, x') + E k(y, y') - 2 E k(x, y).

    y ~ N(0, 1), k(a, b) = exp(-|a - b|^2 / (2 sigma^2)). latent: [B, C, h, w]; each position is a point in C
    dimensions. The estimate is unbiased: no point is paired with itself, so its mean is zero for equal distributions
    and one batch may be below zero (Gretton et al., "A kernel two-sample test", 2012, equation 3). Instead of the KL
    divergence, or beside it, it pulls all latents together towards the prior and leaves each posterior free (Zhao et
    al., "InfoVAE", 2019).
    """

    sigma: float = field(default=1.0, validator=[validators.ge(1e-3), validators.le(1e3)])
    """Width of the kernel; a width far below sqrt(2 C), the typical distance of two samples, has no gradient."""
    points: int = field(default=1024, validator=[validators.ge(2), validators.le(4096)])
    """Largest number of positions, sampled from a batch, and of prior samples; memory grows with its square."""

    def __call__(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Return the estimate."""
        import torch
        from einops import rearrange

        x = rearrange(latent, "b c h w -> (b h w) c")
        if len(x) < 2:
            raise ValueError("loss `mmd` compares pairs of latent positions, but the batch has only one position")
        if len(x) > self.points:
            x = x[torch.randperm(len(x), generator=generator, device=x.device)[: self.points]]
        y = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self._mean_of_pairs(x) + self._mean_of_pairs(y) - 2 * self._kernel(x, y).mean()

    def _mean_of_pairs(self, x: Tensor) -> Tensor:
        """The mean of k over all pairs of different points of x."""
        kernel = self._kernel(x, x)
        return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """The kernel k of every pair: [N, C] and [M, C] to [N, M]."""
        square = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
        return (square.clamp(min=0) / (-2 * self.sigma**2)).exp()
