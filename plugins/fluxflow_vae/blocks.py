"""The autoencoder's layers: residual blocks, attention, changes of resolution, and layers modulated by a condition."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from .activations import Activation, build_activation, build_same_width_activation, expansion, initialize_for

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
Norm = Literal["none", "group", "batch"]
Upsampling = Literal["interpolate", "bilinear", "transposed"]


def group_count(width: int) -> int:
    """Groups of about eight channels, at most 32: with one channel per group the level of a flat area would be lost."""
    return math.gcd(min(max(width // 8, 1), 32), width)


def build_norm(norm: Norm, width: int) -> list[nn.Module]:
    """The layer that normalizes `width` channels, as a list that is empty for "none"."""
    if norm == "none":
        return []
    return [nn.GroupNorm(group_count(width), width) if norm == "group" else nn.BatchNorm2d(width)]


class ResidualBlock(nn.Module):
    """y = s(x) + f(x), f = activation, 3x3, activation, 3x3; [B, C, H, W] to the same.

    Without normalization s(x) = x. In an autoencoder this small normalization costs more than it brings, because it
    removes the level of a flat area; instead the last convolution starts small (Zhang et al., "Fixup initialization",
    2019). With normalization each convolution of f is normalized, and so is the skip branch, s(x) = norm(x): if only
    one summand had unit variance, one of the two would dominate.
    """

    def __init__(self, width: int, activation: Activation, norm: Norm = "none") -> None:
        super().__init__()
        inner = expansion(activation) * width
        self.branch = nn.Sequential(
            build_same_width_activation(activation, width),
            initialize_for(nn.Conv2d(width, inner, 3, padding=1), activation),
            *build_norm(norm, inner),
            build_activation(activation, width),
            nn.Conv2d(width, width, 3, padding=1),
            *build_norm(norm, width),
        )
        self.skip = nn.Sequential(*build_norm(norm, width))
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
        self.out = zero_initialized(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Let every position attend to every other."""
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "b (three heads d) h w -> three b heads (h w) d", three=3, heads=self.heads)
        mixed = scaled_dot_product_attention(q, k, v)
        change: Tensor = self.out(rearrange(mixed, "b heads (h w) d -> b (heads d) h w", h=x.shape[-2]))
        return x + change


class Upsample(nn.Module):
    """Double the resolution: [B, C, H, W] to [B, C', 2 H, 2 W].

    `interpolate` repeats each position and convolves, 3x3; `bilinear` interpolates instead of repeating, which
    is smoother. `transposed` is one transposed convolution, 4x4 with stride 2: cheaper, but kernels that overlap
    unevenly can leave a checkerboard (Odena et al., "Deconvolution and checkerboard artifacts", 2016).
    """

    def __init__(
        self, width_in: int, width_out: int, upsample: Upsampling = "interpolate", activation: Activation = "silu"
    ) -> None:
        super().__init__()
        self.enlarge = nn.Identity() if upsample == "transposed" else build_enlargement(upsample)
        if upsample == "transposed":
            transposed = nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1)
            self.conv: nn.Module = initialize_for(transposed, activation, 4 * width_in)
        else:
            self.conv = initialize_for(nn.Conv2d(width_in, width_out, 3, padding=1), activation)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate and convolve."""
        doubled: Tensor = self.conv(self.enlarge(x))
        return doubled


def build_enlargement(upsample: Upsampling) -> nn.Module:
    """[B, C, H, W] to [B, C, 2 H, 2 W]: interpolated for `bilinear`, repeated otherwise."""
    if upsample == "bilinear":
        return nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
    return nn.Upsample(scale_factor=2.0, mode="nearest")


class ResamplingBlock(nn.Module):
    """y = s(x) + f(x) at half or twice the resolution, with every convolution of both branches normalized.

    f = activation, resampling convolution, norm, activation, 3x3, norm. s = 2x2 with stride 2, norm, or
    interpolation, 1x1, norm. The counterpart of `ResidualBlock` between two resolutions, where the skip branch needs a
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
            build_same_width_activation(activation, width_in),
            resample,
            *build_norm(norm, expansion(activation) * width_out),
            build_activation(activation, width_out),
            nn.Conv2d(width_out, width_out, 3, padding=1),
            *build_norm(norm, width_out),
        )
        self.skip = nn.Sequential(*shortcut, *build_norm(norm, width_out))

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        y: Tensor = self.skip(x) + self.branch(x)
        return y


def build_downsampling(width_in: int, width_out: int, activation: Activation, norm: Norm) -> nn.Module:
    """[B, C, H, W] to [B, C', H/2, W/2]: a strided convolution, inside a residual block if there is a norm."""
    if norm == "none":
        return nn.Conv2d(width_in, width_out, 4, stride=2, padding=1)
    strided = initialize_for(nn.Conv2d(width_in, expansion(activation) * width_out, 4, stride=2, padding=1), activation)
    shortcut: list[nn.Module] = [nn.Conv2d(width_in, width_out, 2, stride=2)]
    return ResamplingBlock(strided, shortcut, (width_in, width_out), activation, norm)


def build_upsampling(
    width_in: int, width_out: int, activation: Activation, norm: Norm, upsample: Upsampling
) -> nn.Module:
    """[B, C, H, W] to [B, C', 2 H, 2 W]: an `Upsample`, inside a residual block if there is a norm."""
    if norm == "none":
        return Upsample(width_in, width_out, upsample)
    inner = Upsample(width_in, expansion(activation) * width_out, upsample, activation)
    shortcut: list[nn.Module] = [build_enlargement(upsample), nn.Conv2d(width_in, width_out, 1)]
    return ResamplingBlock(inner, shortcut, (width_in, width_out), activation, norm)


def zero_initialized(layer: Layer) -> Layer:
    """Initialize a layer to zero, so that adding its output changes nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Spade(nn.Module):
    """y = norm(x) (1 + gamma) + beta, with gamma and beta a 3x3 convolution of a spatial context.

    x: [B, C, H, W]; context: [B, K, h, w], repeated up to H x W. norm is a group normalization without weights.
    It removes the level and the contrast of the features, and the context sets both at each position
    (Park et al., "Semantic image synthesis with spatially-adaptive normalization", 2019).
    """

    def __init__(self, width: int, context_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(width), width, affine=False)
        self.modulation = nn.Conv2d(context_channels, 2 * width, 3, padding=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Normalize x, then scale and shift it by the context."""
        resized = interpolate(context, size=x.shape[-2:], mode="nearest")
        gamma, beta = self.modulation(resized).chunk(2, dim=1)
        y: Tensor = self.norm(x) * (1 + gamma) + beta
        return y


class SpadeBlock(nn.Module):
    """The change f(x) = 3x3(activation(SPADE(x; context))) of a residual sum x + f(x); [B, C, H, W] to the same.

    The last convolution starts at zero, so that switching a new block on changes nothing at first.
    """

    def __init__(self, width: int, context_channels: int, activation: Activation) -> None:
        super().__init__()
        self.spade = Spade(width, context_channels)
        self.activation = build_same_width_activation(activation, width)
        self.out = zero_initialized(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the change to add to x."""
        change: Tensor = self.out(self.activation(self.spade(x, context)))
        return change


class Film(nn.Module):
    """y = x (1 + gamma) + beta, with one gamma and one beta per channel, a linear map of a vector.

    x: [B, C, H, W]; vector: [B, D]. Feature-wise linear modulation (Perez et al., "FiLM", 2018). The map
    starts at zero, and the layer as the identity.
    """

    def __init__(self, width: int, vector_width: int) -> None:
        super().__init__()
        self.affine = zero_initialized(nn.Linear(vector_width, 2 * width))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Scale and shift each channel."""
        gamma, beta = self.affine(vector)[..., None, None].chunk(2, dim=1)
        y: Tensor = x * (1 + gamma) + beta
        return y
