"""Layers that a condition modulates: SPADE by a spatial map, FiLM by a vector."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from .activations import Activation, build_same_width_activation
from .blocks import group_count, zero_initialized


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
        self.affine = nn.Linear(vector_width, 2 * width)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Scale and shift each channel."""
        gamma, beta = self.affine(vector)[..., None, None].chunk(2, dim=1)
        y: Tensor = x * (1 + gamma) + beta
        return y
