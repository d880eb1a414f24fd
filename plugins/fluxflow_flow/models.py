"""Options of the flow's network; torch is imported only when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def _divides_width(builder: Any, attribute: Attribute[int], heads: int) -> None:
    """Hold that every head gets the same number of channels."""
    if heads < 1 or builder.width % heads:
        raise ValueError(f"heads is {heads}: it must divide width ({builder.width})")


def _four_divides(builder: Any, attribute: Attribute[int], width: int) -> None:
    """Hold that sines and cosines of row and column share the channels evenly."""
    if width < 4 or width % 4:
        raise ValueError(f"width is {width}: it must be a multiple of 4")


@frozen
class FlowTransformerBuilder:
    """Transformer over latent patches, conditioned on text; see `networks.FlowTransformer`."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent: the compressor's."""
    width: int = field(default=128, validator=_four_divides)
    """Channels of a token."""
    depth: int = field(default=4, validator=validators.ge(1))
    """Transformer blocks."""
    heads: int = field(default=4, validator=_divides_width)
    """Attention heads."""
    patch: int = field(default=2, validator=validators.ge(1))
    """Side of the square of the latent that is one token."""
    text_width: int = field(default=128, validator=validators.ge(1))
    """Channels of a text token: the text encoder's width."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_flow.networks import FlowTransformer

        return FlowTransformer(
            latent_channels=self.latent_channels,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            patch=self.patch,
            text_width=self.text_width,
        )
