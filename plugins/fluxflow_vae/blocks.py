"""The autoencoder's layers: residual blocks, normalisation, attention, and changes of resolution."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from fluxflow_vae.activations import Activation, activated, feeding, inputs_of, nonlinearity

Norm = Literal["none", "group", "batch"]
Upsampling = Literal["interpolate", "bilinear", "transposed"]


def groups_of(width: int) -> int:
    """Groups of about eight channels, at most 32: a group of one would lose the level of a flat area."""
    return math.gcd(min(max(width // 8, 1), 32), width)


def normalised(norm: Norm, width: int) -> list[nn.Module]:
    """The layer that brings `width` channels to zero mean and unit size, if there is to be one."""
    if norm == "none":
        return []
    return [nn.GroupNorm(groups_of(width), width) if norm == "group" else nn.BatchNorm2d(width)]


class ResidualBlock(nn.Module):
    """y = s(x) + f(x), f = activation, 3x3, activation, 3x3; [B, C, H, W] to the same.

    Without normalisation s(x) = x: it costs an autoencoder this small more than it gives, as the level of
    a flat area is just what a normalisation removes. Instead the last convolution starts small (Zhang et
    al., "Fixup initialization", 2019). With it each convolution of f is normalised, and so is the skip
    branch, s(x) = norm(x): where only one of the summands has unit size, the other drowns it or is drowned.
    """

    def __init__(self, width: int, activation: Activation, norm: Norm = "none") -> None:
        super().__init__()
        inner = inputs_of(activation) * width
        self.branch = nn.Sequential(
            activated(activation, width),
            feeding(nn.Conv2d(width, inner, 3, padding=1), activation),
            *normalised(norm, inner),
            nonlinearity(activation, width),
            nn.Conv2d(width, width, 3, padding=1),
            *normalised(norm, width),
        )
        self.skip = nn.Sequential(*normalised(norm, width))
        if norm == "none":
            last = self.branch[-1]
            assert isinstance(last, nn.Conv2d)
            with torch.no_grad():
                last.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        y: Tensor = self.skip(x) + self.branch(x)
        return y


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
        self.out = starting_at_zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Let every position look at every other."""
        batch, width, height, wide = x.shape
        shape = (batch, 3, self.heads, width // self.heads, height * wide)
        q, k, v = self.qkv(self.norm(x)).reshape(shape).transpose(-1, -2).unbind(1)
        mixed = scaled_dot_product_attention(q, k, v)
        change: Tensor = self.out(mixed.transpose(-1, -2).reshape(batch, width, height, wide))
        return x + change


class Upsample(nn.Module):
    """Double the resolution: [B, C, H, W] to [B, C', 2 H, 2 W].

    `interpolate` repeats each place and convolves, 3x3; `bilinear` interpolates instead of repeating, which
    is smoother. `transposed` is one transposed convolution, 4x4 with stride 2: cheaper, but where kernels
    overlap unevenly a checkerboard shows (Odena et al., "Deconvolution and checkerboard artifacts", 2016).
    """

    def __init__(
        self, width_in: int, width_out: int, upsample: Upsampling = "interpolate", activation: Activation = "silu"
    ) -> None:
        super().__init__()
        self.upsample = upsample
        if upsample == "transposed":
            transposed = nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1)
            self.conv: nn.Module = feeding(transposed, activation, 4 * width_in)
        else:
            self.conv = feeding(nn.Conv2d(width_in, width_out, 3, padding=1), activation)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate and convolve."""
        doubled: Tensor = self.conv(x if self.upsample == "transposed" else enlarged(x, self.upsample))
        return doubled


def enlarged(x: Tensor, upsample: Upsampling) -> Tensor:
    """[B, C, H, W] at twice the resolution: repeated, or interpolated for `bilinear`."""
    if upsample == "bilinear":
        return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    return interpolate(x, scale_factor=2.0, mode="nearest")


class Enlarge(nn.Module):
    """`enlarged` as a layer."""

    def __init__(self, upsample: Upsampling) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        """Double the resolution."""
        return enlarged(x, self.upsample)


class Resampling(nn.Module):
    """y = s(x) + f(x) at half or twice the resolution, every convolution of both branches normalised.

    f = activation, resampling convolution, norm, activation, 3x3, norm. s = 2x2 with stride 2, norm, or
    interpolation, 1x1, norm. What `ResidualBlock` is at one resolution, where a skip branch needs a
    convolution of its own (He et al., "Deep residual learning", 2016, their option C).
    """

    def __init__(
        self,
        resample: nn.Module,
        shortcut: list[nn.Module],
        widths: tuple[int, int],
        activation: Activation,
        norm: Norm,
    ) -> None:
        super().__init__()
        width_in, width_out = widths
        self.branch = nn.Sequential(
            activated(activation, width_in),
            resample,
            *normalised(norm, inputs_of(activation) * width_out),
            nonlinearity(activation, width_out),
            nn.Conv2d(width_out, width_out, 3, padding=1),
            *normalised(norm, width_out),
        )
        self.skip = nn.Sequential(*shortcut, *normalised(norm, width_out))

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        y: Tensor = self.skip(x) + self.branch(x)
        return y


def halving(width_in: int, width_out: int, activation: Activation, norm: Norm) -> nn.Module:
    """[B, C, H, W] to [B, C', H/2, W/2]: a strided convolution, within a residual block where there is a norm."""
    if norm == "none":
        return nn.Conv2d(width_in, width_out, 4, stride=2, padding=1)
    strided = feeding(nn.Conv2d(width_in, inputs_of(activation) * width_out, 4, stride=2, padding=1), activation)
    shortcut: list[nn.Module] = [nn.Conv2d(width_in, width_out, 2, stride=2)]
    return Resampling(strided, shortcut, (width_in, width_out), activation, norm)


def doubling(width_in: int, width_out: int, activation: Activation, norm: Norm, upsample: Upsampling) -> nn.Module:
    """[B, C, H, W] to [B, C', 2 H, 2 W]: an `Upsample`, within a residual block where there is a norm."""
    if norm == "none":
        return Upsample(width_in, width_out, upsample)
    inner = Upsample(width_in, inputs_of(activation) * width_out, upsample, activation)
    shortcut: list[nn.Module] = [Enlarge(upsample), nn.Conv2d(width_in, width_out, 1)]
    return Resampling(inner, shortcut, (width_in, width_out), activation, norm)


def starting_at_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Let a layer give zero at the start, so that what it is added to starts unchanged."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
