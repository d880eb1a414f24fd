"""Layers that a condition steers: SPADE by a map of places, FiLM by a vector."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fluxflow_vae.activations import Activation, activated
from fluxflow_vae.blocks import groups_of, starting_at_zero


class Spade(nn.Module):
    """y = norm(x) (1 + gamma) + beta, with gamma and beta a 3x3 convolution of a spatial context.

    x: [B, C, H, W]; context: [B, K, h, w], repeated up to H x W. norm is a group normalisation without weights
    of its own. It takes the level and the contrast of the features away, and the context says what they are
    at each place (Park et al., "Semantic image synthesis with spatially-adaptive normalization", 2019).
    """

    def __init__(self, width: int, context_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups_of(width), width, affine=False)
        self.modulation = nn.Conv2d(context_channels, 2 * width, 3, padding=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Normalise x, and give it the context's level and contrast."""
        near = interpolate(context, size=x.shape[-2:], mode="nearest")
        gamma, beta = self.modulation(near).chunk(2, dim=1)
        y: Tensor = self.norm(x) * (1 + gamma) + beta
        return y


class SpadeBlock(nn.Module):
    """The change f(x) = 3x3(activation(SPADE(x; context))) of a residual sum x + f(x); [B, C, H, W] to the same.

    The last convolution starts at zero: switched on, a new block leaves what was learned without it as it is.
    """

    def __init__(self, width: int, context_channels: int, activation: Activation) -> None:
        super().__init__()
        self.spade = Spade(width, context_channels)
        self.activation = activated(activation, width)
        self.out = starting_at_zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Give what is to be added to x."""
        change: Tensor = self.out(self.activation(self.spade(x, context)))
        return change


class Film(nn.Module):
    """y = x (1 + gamma) + beta, with gamma and beta one number for each channel, a linear map of a vector.

    x: [B, C, H, W]; vector: [B, D]. Feature-wise linear modulation (Perez et al., "FiLM", 2018); the map
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
