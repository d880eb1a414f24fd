"""Options of the text encoder; torch is imported only when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def _divides_width(builder: Any, attribute: Attribute[int], heads: int) -> None:
    """Hold that every head gets the same number of channels."""
    if heads < 1 or builder.width % heads:
        raise ValueError(f"heads is {heads}: it must divide width ({builder.width})")


@frozen
class TextTransformerBuilder:
    """Transformer over hashed words, trained from scratch; see `networks.TextTransformer`."""

    width: int = field(default=128, validator=validators.ge(1))
    """Channels of a token."""
    depth: int = field(default=2, validator=validators.ge(0))
    """Transformer blocks."""
    heads: int = field(default=4, validator=_divides_width)
    """Attention heads."""
    table_size: int = field(default=2048, validator=validators.ge(1))
    """Rows of each hash table; collisions do no harm while words are fewer than its square."""
    tables: int = field(default=2, validator=validators.ge(1))
    """Hash tables, each with its own hash function."""
    max_words: int = field(default=63, validator=validators.ge(1))
    """Words of a caption that are read; the rest is cut off."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_text.networks import TextTransformer

        return TextTransformer(
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            table_size=self.table_size,
            tables=self.tables,
            max_words=self.max_words,
        )
