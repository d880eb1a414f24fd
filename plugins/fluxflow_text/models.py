"""Builder of the text encoder; torch is imported only when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Attribute, asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


def _divides_width(builder: Any, _: Attribute[int], heads: int) -> None:
    if heads < 1 or builder.width % heads:
        raise ValueError(f"heads is {heads}: it must divide width ({builder.width})")


@frozen
class TextTransformerBuilder:
    """Transformer over hashed words, trained from scratch; see `networks.TextTransformer`.

    In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character is a word.
    """

    width: int = field(default=128, validator=validators.ge(1))
    """Channels of a token."""
    depth: int = field(default=2, validator=validators.ge(0))
    """Transformer blocks."""
    heads: int = field(default=4, validator=_divides_width)
    """Attention heads."""
    table_size: int = field(default=2048, validator=validators.ge(1))
    """Rows of each hash table; collisions are harmless while there are fewer words than its square."""
    tables: int = field(default=2, validator=validators.ge(1))
    """Hash tables, each with its own hash function."""
    max_words: int = field(default=63, validator=validators.ge(1))
    """Largest number of words of a caption; longer captions are truncated."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        from .networks import TextTransformer

        return TextTransformer(**asdict(self))
