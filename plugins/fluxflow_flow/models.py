"""Builders of the flow's networks; torch is imported only when one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def attention_levels(channel_mults: Sequence[int], attention: Sequence[int] | None) -> list[int]:
    """The levels with attention: those that are named, else all but the finest of several."""
    if attention is not None:
        return list(attention)
    return list(range(1, len(channel_mults))) or [0]


def _divides_width(builder: Any, _: Attribute[int], heads: int) -> None:
    if heads < 1 or builder.width % heads:
        raise ValueError(f"heads is {heads}: it must divide width ({builder.width})")


def _multiple_of_4(_: Any, __: Attribute[int], width: int) -> None:
    # Sines and cosines of row and column have a quarter of the channels each.
    if width < 4 or width % 4:
        raise ValueError(f"width is {width}: it must be a multiple of 4")


def _rotates_pairs(builder: Any, _: Attribute[str], positions: str) -> None:
    # Rows and columns rotate half of a head's channels each, in pairs.
    if positions == "rotary" and builder.heads >= 1 and builder.width // builder.heads % 4:
        head = f"{builder.width // builder.heads} channels per head (width {builder.width}, {builder.heads} heads)"
        raise ValueError(f"positions is rotary, which needs a multiple of 4 channels per head, not {head}")


def _levels_exist(builder: Any, _: Attribute[Any], levels: list[int] | None) -> None:
    count = len(builder.channel_mults)
    for level in levels if levels is not None else ():
        if not 0 <= level < count:
            raise ValueError(f"attention names level {level}: the levels are 0 (the finest) to {count - 1}")


def _divides_levels(builder: Any, _: Attribute[int], heads: int) -> None:
    for level in attention_levels(builder.channel_mults, builder.attention):
        width = builder.width * builder.channel_mults[level] if level < len(builder.channel_mults) else heads
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}: it must divide the {width} channels of level {level}")


@frozen
class FlowTransformerBuilder:
    """Transformer over latent patches, conditioned on text; see `transformer.FlowTransformer`."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent: the compressor's."""
    width: int = field(default=128, validator=_multiple_of_4)
    """Channels of a token."""
    depth: int = field(default=4, validator=validators.ge(1))
    """Transformer blocks."""
    heads: int = field(default=4, validator=_divides_width)
    """Attention heads."""
    patch: int = field(default=2, validator=validators.ge(1))
    """Side of the square of the latent that is one token."""
    text_width: int = field(default=128, validator=validators.ge(1))
    """Channels of a text token: the text encoder's width."""
    positions: Literal["sincos", "rotary"] = field(default="sincos", validator=_rotates_pairs)
    """Sines and cosines added to the tokens, or queries and keys rotated by row and column (RoPE)."""
    text: Literal["cross", "joint"] = "cross"
    """Cross-attention of image tokens to the text, or joint attention of both kinds as in MM-DiT."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        from .transformer import FlowTransformer

        return FlowTransformer(**asdict(self))


@frozen
class UnetBuilder:
    """Residual UNet over latents, conditioned on text; see `unet.Unet`."""

    latent_channels: int = field(default=8, validator=validators.ge(1))
    """Channels of the latent: the compressor's."""
    width: int = field(default=128, validator=_multiple_of_4)
    """Channels of a level whose multiple is 1."""
    channel_mults: list[int] = field(
        factory=lambda: [1, 2, 2], validator=validators.deep_iterable(validators.ge(1), validators.min_len(1))
    )
    """Multiple of `width` for each level from the finest; each level has half the resolution of the one before."""
    depth: int = field(default=2, validator=validators.ge(1))
    """Residual blocks of a level on the way down; on the way up there is one more."""
    attention: list[int] | None = field(default=None, validator=_levels_exist)
    """Levels with attention and cross-attention to the text, 0 the finest; null: all but the finest of several."""
    heads: int = field(default=4, validator=_divides_levels)
    """Attention heads."""
    text_width: int = field(default=128, validator=validators.ge(1))
    """Channels of a text token: the text encoder's width."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        from .unet import Unet

        return Unet(**asdict(self))


@frozen
class ProjectionBuilder:
    """One linear layer, y = W x + b, between two widths; loss `alignment` compares latents and text through it."""

    width_in: int = field(default=8, validator=validators.ge(1))
    """Input channels: for `alignment` the latent's."""
    width_out: int = field(default=128, validator=validators.ge(1))
    """Output channels: for `alignment` the text encoder's width."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        from torch import nn

        return nn.Linear(self.width_in, self.width_out)
