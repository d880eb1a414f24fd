"""Options of the flow's networks; torch is imported only when it is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

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


def _shares_rotation(builder: Any, attribute: Attribute[str], positions: str) -> None:
    """Hold that rows and columns each turn whole pairs of a head's channels."""
    if positions == "rotary" and builder.heads >= 1 and builder.width // builder.heads % 4:
        told = f"positions is rotary: a head has {builder.width // builder.heads} channels"
        raise ValueError(f"{told} (width {builder.width} over {builder.heads} heads), which must be a multiple of 4")


def attended(channel_mults: Sequence[int], attention: Sequence[int] | None) -> list[int]:
    """Levels of a UNet that have attention: those that are named, else all but the finest of several."""
    if attention is not None:
        return list(attention)
    return list(range(1, len(channel_mults))) or [0]


def _levels_there_are(builder: Any, attribute: Attribute[Any], levels: list[int] | None) -> None:
    """Hold that attention stands at levels of the network, and that heads share their channels."""
    count = len(builder.channel_mults)
    for level in levels if levels is not None else ():
        if not 0 <= level < count:
            raise ValueError(f"attention names level {level}: there are levels 0 (the finest) to {count - 1}")


def _shares_levels(builder: Any, attribute: Attribute[int], heads: int) -> None:
    """Hold that at every level with attention every head gets the same number of channels."""
    for level in attended(builder.channel_mults, builder.attention):
        wide = builder.width * builder.channel_mults[level] if level < len(builder.channel_mults) else heads
        if heads < 1 or wide % heads:
            raise ValueError(f"heads is {heads}: it must divide the {wide} channels of level {level}")


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
    positions: Literal["sincos", "rotary"] = field(default="sincos", validator=_shares_rotation)
    """Sines and cosines added to the tokens, or queries and keys turned by row and column (RoPE)."""
    text: Literal["cross", "joint"] = "cross"
    """Whether image tokens read the text, or both kinds attend to each other as in MM-DiT."""

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
            positions=self.positions,
            text=self.text,
        )


@frozen
class UnetBuilder:
    """Residual UNet over latents, conditioned on text; see `unet.Unet`."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent: the compressor's."""
    width: int = field(default=128, validator=_four_divides)
    """Channels of a level with the multiple 1."""
    channel_mults: list[int] = field(
        factory=lambda: [1, 2, 2],
        validator=validators.deep_iterable(validators.ge(1), validators.min_len(1)),
    )
    """For each level from the finest, its multiple of `width`; each level but the last is halved into the next."""
    depth: int = field(default=2, validator=validators.ge(1))
    """Residual blocks of a level on the way down; on the way up one more."""
    attention: list[int] | None = field(default=None, validator=_levels_there_are)
    """Levels with attention and cross-attention to the text, 0 the finest; null: all but the finest of several."""
    heads: int = field(default=4, validator=_shares_levels)
    """Attention heads."""
    text_width: int = field(default=128, validator=validators.ge(1))
    """Channels of a text token: the text encoder's width."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_flow.unet import Unet

        return Unet(
            latent_channels=self.latent_channels,
            width=self.width,
            channel_mults=self.channel_mults,
            depth=self.depth,
            attention=self.attention,
            heads=self.heads,
            text_width=self.text_width,
        )


@frozen
class ProjectionBuilder:
    """One linear layer, y = W x + b, between two widths: what loss `alignment` compares pictures and texts through."""

    width_in: int = field(default=8, validator=validators.ge(1))
    """Channels that enter: for `alignment` the latent's."""
    width_out: int = field(default=128, validator=validators.ge(1))
    """Channels that leave: for `alignment` the text encoder's width."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from torch import nn

        return nn.Linear(self.width_in, self.width_out)
