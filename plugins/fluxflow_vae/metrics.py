"""Metrics of an autoencoder: the quality of its reconstructions, and the cost of its latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

from fluxflow_registry import higher_is_better

from .losses import odd

if TYPE_CHECKING:
    from torch import Tensor

    from .networks import Posterior


@higher_is_better
def psnr(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(2^2 / mse) in dB, the mean over images [B, C, H, W] in [-1, 1]; 0-d."""
    error = (reconstruction.clamp(-1, 1) - image).square().flatten(1).mean(dim=1)
    return (10 * (4 / error.clamp(min=1e-12)).log10()).mean()


@higher_is_better
def sharpness(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Energy of the gradients of the reconstruction over that of the image: 1 is as sharp as the original.

    E|dx p|^2 + E|dy p|^2 over the same for t, p and t [B, C, H, W]; 0-d. Blur lowers it. A ratio of our own.
    """

    def energy(x: Tensor) -> Tensor:
        return x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()

    return energy(reconstruction) / energy(image)


@higher_is_better
@frozen
class Ssim:
    """Structural similarity in a Gaussian window, at most 1, the mean over images (Wang et al., 2004).

    SSIM = (2 m_p m_t + C1)(2 s_pt + C2) / ((m_p^2 + m_t^2 + C1)(s_p^2 + s_t^2 + C2)), C1 = 0.02^2, C2 = 0.06^2
    for images [B, C, H, W] in [-1, 1] (the reconstruction is clamped), over the windows that lie inside the image.
    The loss of the same name is 1 - SSIM.
    """

    window: int = field(default=11, validator=odd)
    """Side of the window in pixels, odd; reduced to the largest that fits a smaller image."""
    sigma: float = field(default=1.5, validator=validators.gt(0))
    """Standard deviation of the window in pixels."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean similarity."""
        import torch
        from torch.nn.functional import conv2d

        from .similarity import gaussian, largest_window, ssim_of_blurred

        weight = gaussian(largest_window(self.window, image), self.sigma, image)
        # One convolution where the loss takes two: values of earlier runs are reproduced to the last bit.
        kernel = torch.outer(weight, weight).expand(image.shape[1], 1, -1, -1)
        return ssim_of_blurred(reconstruction.clamp(-1, 1), image, lambda x: conv2d(x, kernel, groups=x.shape[1]))


def kl(posterior: Posterior) -> Tensor:
    """KL divergence of q(z|x) = N(m, s^2) from N(0, 1): (m^2 + s^2 - 1 - log s^2) / 2, mean nats per element.

    It never has free bits, even if the loss of the same name has them.
    """
    return _kl_of_elements(posterior).mean()


@frozen
class Elbo:
    """Negative evidence lower bound R + beta K: lower is better (Kingma and Welling, 2014).

    p, t: [B, 3, H, W] in [-1, 1]; posterior: two [B, C, h, w]. With `mean`, R is the mean over the image's elements
    of (p - t)^2 or |p - t|, and K the mean nats over the latent's: the sum of losses `mse` or `l1` with weight 1 and
    `kl` with weight beta. With `sum`, both are sums over a sample's elements, then means over samples: with
    beta = 1 this is the bound in nats, up to the constant of a Gaussian p(x|z) of variance 1/2 (`mse`) or a Laplacian
    of scale 1 (`l1`).
    """

    reconstruction: Literal["mse", "l1"] = "mse"
    """The error R: squared or absolute."""
    beta: float = field(default=1.0, validator=validators.ge(0))
    """Weight of K (Higgins et al., "beta-VAE", 2017)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Means over elements, or sums over a sample's."""

    def __call__(self, reconstruction: Tensor, image: Tensor, posterior: Posterior) -> Tensor:
        """Return the bound."""
        difference = reconstruction - image
        error = difference.square() if self.reconstruction == "mse" else difference.abs()
        r, k = error.flatten(1), _kl_of_elements(posterior).flatten(1)
        if self.reduction == "mean":
            return r.mean() + self.beta * k.mean()
        return r.sum(dim=1).mean() + self.beta * k.sum(dim=1).mean()


def _kl_of_elements(posterior: Posterior) -> Tensor:
    """The KL divergence from N(0, 1) of each element, in nats: [B, C, h, w]."""
    mean, logvar = posterior.mean, posterior.logvar
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
