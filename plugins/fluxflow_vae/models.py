"""Options of the autoencoder's two models; torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def _power_of_two_patches(builder: Any, attribute: Attribute[int], downscale: int) -> None:
    """Hold that the halvings after the patches reach `downscale` exactly."""
    factor, rest = divmod(downscale, builder.patch)
    if rest or factor.bit_count() != 1:
        raise ValueError(f"downscale is {downscale}: it must be patch ({builder.patch}) times 1, 2, 4, 8, ...")


def _a_resolution_that_attends(builder: Any, attribute: Attribute[int | None], at: int | None) -> None:
    """Hold that attention stands at a resolution that there is, and that there is attention."""
    if at is None:
        return
    if not builder.attention:
        raise ValueError(f"attention_downscale is {at}, but there is no attention: say `attention: true` as well")
    there = [builder.patch * 2**k for k in range((builder.downscale // builder.patch).bit_length())]
    if at not in there:
        raise ValueError(f"attention_downscale is {at}: the resolutions are {', '.join(map(str, there))}")


@frozen
class CompressorBuilder:
    """Convolutional encoder to a Gaussian posterior; see `networks.Compressor`."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent."""
    width: int = field(default=48, validator=validators.ge(1))
    """Channels at the finest resolution; doubled at each halving, up to four times."""
    depth: int = field(default=1, validator=validators.ge(0))
    """Residual blocks at each resolution."""
    patch: int = field(default=2, validator=validators.ge(1))
    """Side of the square of pixels that enters as one position."""
    downscale: int = field(default=4, validator=_power_of_two_patches)
    """Side of the picture over side of the latent."""
    activation: Literal["silu", "relu", "leaky_relu", "bezier", "bezier_channel"] = "silu"
    """Nonlinearity; `bezier`: a cubic curve whose control points the layer in front computes, five channels for
    each; `bezier_channel`: one with four trained control points a channel."""
    norm: Literal["none", "group", "batch"] = "none"
    """Normalisation after each convolution, in the main and the skip branches alike."""
    attention: bool = False
    """Whether positions of one resolution look at each other."""
    attention_downscale: int | None = field(default=None, validator=_a_resolution_that_attends)
    """Which one: side of the picture over its side; null: the coarsest."""
    scaling_factor: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Factor that brings latents to unit size, such as 0.13025 (SDXL) or 0.18215 (SD 1); null: measured in training."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_vae.networks import Compressor

        return Compressor(**asdict(self))


@frozen
class ExpanderBuilder:
    """Convolutional decoder from a latent to a picture; see `networks.Expander`."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent: the compressor's."""
    width: int = field(default=48, validator=validators.ge(1))
    """Channels at the finest resolution; doubled at each halving, up to four times."""
    depth: int = field(default=1, validator=validators.ge(0))
    """Residual blocks at each resolution."""
    patch: int = field(default=2, validator=validators.ge(1))
    """Side of the square of pixels that leaves as one position."""
    downscale: int = field(default=4, validator=_power_of_two_patches)
    """Side of the picture over side of the latent: the compressor's."""
    activation: Literal["silu", "relu", "leaky_relu", "bezier", "bezier_channel"] = "silu"
    """Nonlinearity; `bezier`: a cubic curve whose control points the layer in front computes, five channels for
    each; `bezier_channel`: one with four trained control points a channel."""
    norm: Literal["none", "group", "batch"] = "none"
    """Normalisation after each convolution, in the main and the skip branches alike."""
    upsample: Literal["interpolate", "bilinear", "transposed"] = "interpolate"
    """How the resolution doubles: places are repeated, or interpolated, and convolved, or by a transposed
    convolution, which tends to leave a checkerboard."""
    attention: bool = False
    """Whether positions of one resolution look at each other."""
    attention_downscale: int | None = field(default=None, validator=_a_resolution_that_attends)
    """Which one: side of the picture over its side; null: the coarsest."""
    spade: bool = False
    """Whether each resolution has a SPADE block, steered by the latent; the value `reconstruction` switches them."""
    film_width: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Width of the vector that FiLM layers take from `conditioned_reconstruction`; null: there are none."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_vae.networks import Expander

        return Expander(**asdict(self))
