"""Builders of the autoencoder's two models; torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def _patch_times_power_of_two(builder: Any, _: Attribute[int], downscale: int) -> None:
    factor, rest = divmod(downscale, builder.patch)
    if rest or factor.bit_count() != 1:
        raise ValueError(f"downscale is {downscale}: it must be patch ({builder.patch}) times 1, 2, 4, 8, ...")


def _resolution_of_attention(builder: Any, _: Attribute[int | None], downscale: int | None) -> None:
    if downscale is None:
        return
    if not builder.attention:
        raise ValueError(f"attention_downscale is {downscale}, but attention is off: set `attention: true` as well")
    known = [builder.patch * 2**k for k in range((builder.downscale // builder.patch).bit_length())]
    if downscale not in known:
        raise ValueError(f"attention_downscale is {downscale}: the resolutions are {', '.join(map(str, known))}")


@frozen
class _HalfBuilder:
    """What both halves of the autoencoder can be set to."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent, the same in compressor and expander."""
    width: int = field(default=48, validator=validators.ge(1))
    """Channels at the finest resolution; doubled at each halving, up to four times."""
    depth: int = field(default=1, validator=validators.ge(0))
    """Residual blocks at each resolution."""
    patch: int = field(default=2, validator=validators.ge(1))
    """Side of the square of pixels that is one position of the finest resolution."""
    downscale: int = field(default=4, validator=_patch_times_power_of_two)
    """Side of the image over side of the latent, the same in compressor and expander."""
    activation: Literal["silu", "gelu", "relu", "leaky_relu", "bezier", "bezier_channel"] = "silu"
    """Nonlinearity; `bezier`: a cubic curve whose position and control points are five channels of the preceding layer;
    `bezier_channel`: a curve with four trained control points per channel."""
    norm: Literal["none", "group", "batch"] = "none"
    """Normalization after each convolution, in the main and the skip branches alike."""


@frozen
class CompressorBuilder(_HalfBuilder):
    """Convolutional encoder to a Gaussian posterior; see `networks.Compressor`."""

    attention: bool = False
    """Whether one resolution has self-attention."""
    attention_downscale: int | None = field(default=None, validator=_resolution_of_attention)
    """Which one: side of the image over side of the resolution; null: the coarsest."""
    scaling_factor: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Factor that scales latents to unit variance, such as 0.13025 (SDXL) or 0.18215 (SD 1); null: measured in
    training."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        from .networks import Compressor

        return Compressor(**asdict(self))


@frozen
class ExpanderBuilder(_HalfBuilder):
    """Convolutional decoder from a latent to an image; see `networks.Expander`."""

    upsample: Literal["interpolate", "bilinear", "transposed"] = "interpolate"
    """How the resolution doubles: by repeating or interpolating positions before a convolution, or by a transposed
    convolution, which tends to leave a checkerboard."""
    attention: bool = False
    """Whether one resolution has self-attention."""
    attention_downscale: int | None = field(default=None, validator=_resolution_of_attention)
    """Which one: side of the image over side of the resolution; null: the coarsest."""
    spade: bool = False
    """Whether each resolution has a SPADE block conditioned on the latent; the value `reconstruction` switches them."""
    film_width: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Width of the vector that FiLM layers take from `conditioned_reconstruction`; null: no FiLM layers."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        from .networks import Expander

        return Expander(**asdict(self))
