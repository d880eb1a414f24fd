"""Captions on their way to the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fluxflow_text.networks import TextEmbedding


@frozen
class Prompt:
    """Captions of which each is emptied with probability `dropout`: B texts.

    So one network learns both p(x|text) and p(x), as classifier-free guidance needs (Ho and
    Salimans, 2022).
    """

    dropout: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Probability that a caption becomes the empty text."""

    def __call__(self, caption: list[str], generator: torch.Generator) -> list[str]:
        """Give the captions that are kept, and the empty text for the others."""
        import torch

        device = generator.device if generator is not None else None
        dropped = (torch.rand(len(caption), generator=generator, device=device) < self.dropout).tolist()
        return ["" if drop else text for text, drop in zip(caption, dropped, strict=True)]


def text_embedding(prompt: list[str], text_encoder: nn.Module) -> TextEmbedding:
    """Embedding of the prompts: `tokens` [B, L, D] and `mask` [B, L], True for a real token."""
    found: TextEmbedding = text_encoder(prompt)
    return found
