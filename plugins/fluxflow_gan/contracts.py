"""What the discriminator expects of values that other plugins provide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class TextEmbedding(Protocol):
    """Captions as vectors: tokens [B, L, D] and mask [B, L], False for padding."""

    @property
    def tokens(self) -> Tensor:
        """The tokens."""

    @property
    def mask(self) -> Tensor:
        """True for a token, False for padding."""
