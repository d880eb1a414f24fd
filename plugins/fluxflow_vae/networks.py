"""The convolutional autoencoder: a compressor to a Gaussian posterior and an expander back."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

Activation = Literal["silu", "relu", "leaky_relu"]


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and log-variance, each [B, C, h, w]."""

    mean: Tensor
    logvar: Tensor


def _activation(name: Activation) -> nn.Module:
    """Make a fresh activation."""
    if name == "silu":
        return nn.SiLU()
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(0.2)


class ResidualBlock(nn.Module):
    """y = x + f(x), f = activation, 3x3, activation, 3x3; [B, C, H, W] to the same.

    No normalisation: it costs an autoencoder this small more than it gives, as the level of a flat
    area is just what a normalisation removes. Instead the last convolution starts small (Zhang et
    al., "Fixup initialization", 2019).
    """

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _activation(activation),
            nn.Conv2d(width, width, 3, padding=1),
            _activation(activation),
            nn.Conv2d(width, width, 3, padding=1),
        )
        last = self.branch[-1]
        assert isinstance(last, nn.Conv2d)
        with torch.no_grad():
            last.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to x."""
        change: Tensor = self.branch(x)
        return x + change


class SelfAttention(nn.Module):
    """y = x + W softmax(q k^T / sqrt(d)) v over all positions; [B, C, H, W] to the same.

    W starts at zero, so that the block starts as the identity (Vaswani et al., 2017; Zhang et al.,
    "Self-attention GANs", 2019).
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.norm = nn.GroupNorm(1, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = _no_bias(nn.Conv2d(width, width, 1))
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Let every position look at every other."""
        batch, width, height, wide = x.shape
        shape = (batch, 3, self.heads, width // self.heads, height * wide)
        q, k, v = self.qkv(self.norm(x)).view(shape).transpose(-1, -2).unbind(1)
        mixed = scaled_dot_product_attention(q, k, v)
        change: Tensor = self.out(mixed.transpose(-1, -2).reshape(batch, width, height, wide))
        return x + change


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours and a 3x3 convolution.

    Free of the checkerboard of a transposed convolution (Odena et al., "Deconvolution and
    checkerboard artifacts", 2016).
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', 2 H, 2 W]."""
        doubled: Tensor = self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


def _widths(width: int, downscale: int, patch: int) -> list[int]:
    """Widths from the finest to the coarsest resolution, doubling at each, up to four times."""
    return [width * min(2**level, 4) for level in range(int(math.log2(downscale // patch)) + 1)]


def _check(downscale: int, patch: int) -> None:
    if patch < 1 or downscale % patch or (downscale // patch).bit_count() != 1:
        raise ValueError(f"downscale {downscale} must be patch {patch} times a power of two (1, 2, 4, ...)")


class Compressor(nn.Module):
    """Encoder q(z|x) = N(mean, exp(logvar)) of a variational autoencoder (Kingma, Welling, 2014).

    image [B, 3, H, W] in [-1, 1] to Posterior of [B, latent_channels, H/downscale, W/downscale];
    H and W multiples of downscale. Pixels enter as patches (pixel-unshuffle), so that nothing is
    computed at full resolution; each further halving is a strided convolution. Both heads start
    near zero; logvar is clamped to [-10, 10].

    The buffer `latent_rms` (0-d) follows the root mean square of the mean over training batches;
    its inverse is the one global scale that brings latents to unit size (Rombach et al., 2022).
    """

    latent_rms: Tensor

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 48,
        depth: int = 1,
        downscale: int = 4,
        patch: int = 2,
        activation: Activation = "silu",
        attention: bool = False,
    ) -> None:
        super().__init__()
        _check(downscale, patch)
        self.latent_channels, self.downscale = latent_channels, downscale
        widths = _widths(width, downscale, patch)
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(patch),
            nn.Conv2d(3 * patch**2, width, 3, padding=1),
        ]
        for level, here in enumerate(widths):
            layers += [ResidualBlock(here, activation) for _ in range(depth)]
            if level + 1 < len(widths):
                layers.append(nn.Conv2d(here, widths[level + 1], 4, stride=2, padding=1))
        if attention:
            layers.append(SelfAttention(widths[-1]))
        self.body = nn.Sequential(*layers, _activation(activation))
        self.mean = _small(nn.Conv2d(widths[-1], latent_channels, 3, padding=1))
        self.logvar = _small(nn.Conv2d(widths[-1], latent_channels, 3, padding=1))
        self.register_buffer("latent_rms", torch.ones(()))

    def forward(self, image: Tensor) -> Posterior:
        """Encode the image."""
        features = self.body(image)
        mean = self.mean(features)
        if self.training:
            self._follow(mean.detach())
        return Posterior(mean, self.logvar(features).clamp(-10.0, 10.0))

    @torch.no_grad()
    def _follow(self, mean: Tensor) -> None:
        """Move latent_rms^2 by a hundredth of the way to this batch's mean square, if that is finite."""
        here = mean.float().square().mean()
        square = torch.lerp(self.latent_rms.square(), here, 0.01)
        self.latent_rms.copy_(torch.where(here.isfinite(), square.sqrt(), self.latent_rms))


class Expander(nn.Module):
    """Decoder of a variational autoencoder, the mirror image of `Compressor`.

    latent [B, latent_channels, h, w], at the autoencoder's own scale, to image
    [B, 3, h * downscale, w * downscale], about [-1, 1] and unbounded. Interpolation and convolution
    up to H / patch, then the last convolution's channels become pixels (Shi et al., 2016).
    """

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 48,
        depth: int = 1,
        downscale: int = 4,
        patch: int = 2,
        activation: Activation = "silu",
        attention: bool = False,
    ) -> None:
        super().__init__()
        _check(downscale, patch)
        self.latent_channels, self.downscale = latent_channels, downscale
        widths = _widths(width, downscale, patch)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        if attention:
            layers.append(SelfAttention(widths[0]))
        for level, here in enumerate(widths):
            layers += [ResidualBlock(here, activation) for _ in range(depth)]
            if level + 1 < len(widths):
                layers.append(Upsample(here, widths[level + 1]))
        self.body = nn.Sequential(*layers, _activation(activation))
        self.out = nn.Sequential(nn.Conv2d(widths[-1], 3 * patch**2, 3, padding=1), nn.PixelShuffle(patch))

    def forward(self, latent: Tensor) -> Tensor:
        """Decode the latent."""
        image: Tensor = self.out(self.body(latent))
        return image


def _small(head: nn.Conv2d) -> nn.Conv2d:
    """Let a head start near zero: a posterior close to N(0, 1) whatever the picture."""
    nn.init.normal_(head.weight, std=1e-2 / math.sqrt(head.in_channels))
    return _no_bias(head)


def _no_bias(layer: nn.Conv2d) -> nn.Conv2d:
    """Let a layer's bias start at zero."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
