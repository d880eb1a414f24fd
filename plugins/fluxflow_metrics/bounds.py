"""What an autoencoder's latents cost, and the bound that weighs it against what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_metrics.contracts import Posterior


def kl(posterior: Posterior) -> Tensor:
    """KL divergence of q(z|x) = N(m, s^2) from N(0, 1): (m^2 + s^2 - 1 - log s^2) / 2, mean nats an element.

    Without free bits, whatever the loss of this name has.
    """
    return divergence(posterior).mean()


@frozen
class Elbo:
    """Negative evidence lower bound R + beta K: the less, the better (Kingma and Welling, 2014).

    p, t: [B, 3, H, W] in [-1, 1]; posterior: two [B, C, h, w]. By `mean`, R is the mean over the image's elements
    of (p - t)^2 or |p - t|, and K the mean nats over the latent's: what losses `mse` or `l1` with weight 1 and `kl`
    with weight beta add up to. By `sum`, both are sums over a sample's elements, then means over samples: with
    beta = 1 the bound itself in nats, but for the constant of a Gaussian p(x|z) of variance 1/2 (`mse`) or a Laplacian
    of scale 1 (`l1`).
    """

    reconstruction: Literal["mse", "l1"] = "mse"
    """What R measures."""
    beta: float = field(default=1.0, validator=validators.ge(0))
    """Weight of K (Higgins et al., "beta-VAE", 2017)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Means over elements, or sums over a sample's."""

    def __call__(self, reconstruction: Tensor, image: Tensor, posterior: Posterior) -> Tensor:
        """Give the bound."""
        difference = reconstruction - image
        error = difference.square() if self.reconstruction == "mse" else difference.abs()
        r, k = error.flatten(1), divergence(posterior).flatten(1)
        if self.reduction == "mean":
            return r.mean() + self.beta * k.mean()
        return r.sum(dim=1).mean() + self.beta * k.sum(dim=1).mean()


def divergence(posterior: Posterior) -> Tensor:
    """The KL divergence from N(0, 1) of each element, in nats: [B, C, h, w]."""
    mean, logvar = posterior.mean, posterior.logvar
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
