"""Captions after dropout, and their embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import ComputedValue

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .networks import TextEmbedding


@frozen
class Prompt:
    """Captions, each replaced by the empty one with probability `dropout`: B strings.

    One network then learns both p(x|caption) and p(x), as classifier-free guidance needs (Ho and
    Salimans, 2022).
    """

    dropout: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Probability that a caption is replaced by the empty one."""

    def notes(self, steps: Sequence[Mapping[str, ComputedValue]]) -> list[str]:
        """A dropout that leaves no caption to learn from."""
        if self.dropout < 1:
            return []
        return ["`dropout: 1` replaces every caption by the empty one, so captions are not learned"]

    def __call__(self, caption: list[str], generator: torch.Generator) -> list[str]:
        """Return the captions, with the empty one in place of those that are dropped."""
        import torch

        device = generator.device if generator is not None else None
        dropped = (torch.rand(len(caption), generator=generator, device=device) < self.dropout).tolist()
        return ["" if drop else kept for kept, drop in zip(caption, dropped, strict=True)]


def text_embedding(prompt: list[str], text_encoder: nn.Module) -> TextEmbedding:
    """Embedding of the prompts: `tokens` [B, L, D] and `mask` [B, L], False for padding."""
    embedding: TextEmbedding = text_encoder(prompt)
    return embedding
