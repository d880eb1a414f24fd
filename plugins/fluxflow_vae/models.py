"""Options of the autoencoder's two models; torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def _power_of_two_patches(builder: Any, attribute: Attribute[int], downscale: int) -> None:
    """Hold that the halvings after the patches reach `downscale` exactly."""
    factor, rest = divmod(downscale, builder.patch)
    if rest or factor.bit_count() != 1:
        raise ValueError(f"downscale is {downscale}: it must be patch ({builder.patch}) times 1, 2, 4, 8, ...")


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
    activation: Literal["silu", "relu", "leaky_relu"] = "silu"
    """Nonlinearity."""
    attention: bool = False
    """Whether positions of the coarsest resolution look at each other."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_vae.networks import Compressor

        return Compressor(
            latent_channels=self.latent_channels,
            width=self.width,
            depth=self.depth,
            downscale=self.downscale,
            patch=self.patch,
            activation=self.activation,
            attention=self.attention,
        )


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
    activation: Literal["silu", "relu", "leaky_relu"] = "silu"
    """Nonlinearity."""
    attention: bool = False
    """Whether positions of the coarsest resolution look at each other."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_vae.networks import Expander

        return Expander(
            latent_channels=self.latent_channels,
            width=self.width,
            depth=self.depth,
            downscale=self.downscale,
            patch=self.patch,
            activation=self.activation,
            attention=self.attention,
        )
