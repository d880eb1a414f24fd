"""A small text transformer that is trained from scratch."""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from fluxflow_registry import Notice

from .tokenization import NEWEST, buckets, words

__all__ = ["TextEmbedding", "TextTransformer", "buckets", "words"]

#: The entry of the state that names the version of the tokenization; version 1 had none.
VERSION = "tokenization"


class TextEmbedding(NamedTuple):
    """Captions as vectors: tokens [B, L, D], zero where mask [B, L] is False (padding)."""

    tokens: Tensor
    mask: Tensor


class TextBlock(nn.Module):
    """Pre-norm transformer block over tokens with masked padding; [B, L, D] to the same (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Update the tokens; keys [B, 1, 1, L] is False for padding."""
        qkv = self.qkv(self.norm_attention(x))
        q, k, v = rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=keys)
        x = x + self.out(rearrange(mixed, "b heads n d -> b n (heads d)"))
        hidden = gelu(self.feed_in(self.norm_feed(x)), approximate="tanh")
        change: Tensor = self.feed_out(hidden)
        return x + change


class TextTransformer(nn.Module):
    """Encode captions: hash embeddings, learned positions, bidirectional transformer, LayerNorm.

    B captions to TextEmbedding of tokens [B, L, D] and mask [B, L], where L is 1 + the largest number of words of a
    caption. Token 0 marks the start, so that the empty caption has an embedding too (the unconditional one of
    classifier-free guidance). The embedding of a word is the sum of its rows in `tables` tables (Svenstrup et al.,
    2017). Words beyond `max_words` are dropped. Padding is masked: the tokens of a caption do not depend on the other
    captions of a batch. Weights are used with the tokenization they were trained with: its version is in the state.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        table_size: int = 2048,
        tables: int = 2,
        max_words: int = 63,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.width, self.max_words = width, max_words
        self.table_size, self.tables = table_size, tables
        self.tokenization = NEWEST
        self.register_state_dict_post_hook(_save_tokenization)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_load_tokenization)  # type: ignore[no-untyped-call]
        # One table for all hashes: row 0 is padding, row 1 the start; table k starts at row 2 + k * table_size.
        self.embedding = nn.Embedding(2 + tables * table_size, width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(1 + max_words, width) * 0.1)
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        with torch.no_grad():
            self.embedding.weight[0].zero_()

    def _rows(self, captions: list[str]) -> Tensor:
        """Rows of every token of every caption, int64 [B, L, tables], 0 for padding."""
        split = [words(caption, self.tokenization) for caption in captions]
        if any(len(each) > self.max_words for each in split):
            text = f"the text encoder reads {self.max_words} words of a caption, and some captions are longer"
            warnings.warn(Notice(f"{text}: they are truncated"), stacklevel=2)

        def row(found: list[str]) -> Tensor:
            hashes = [buckets(word, self.tables, self.table_size) for word in found[: self.max_words]]
            tokens = [[2 + table * self.table_size + at for table, at in enumerate(each)] for each in hashes]
            return torch.tensor([[1] + [0] * (self.tables - 1), *tokens])

        return pad_sequence([row(found) for found in split], batch_first=True).to(self.position.device)

    def forward(self, captions: list[str]) -> TextEmbedding:
        """Encode the captions."""
        rows = self._rows(captions)
        mask = rows[:, :, 0] > 0
        x = self.embedding(rows).sum(dim=2) + self.position[: rows.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return TextEmbedding(self.norm(x) * mask[:, :, None], mask)


def _save_tokenization(module: TextTransformer, state: MutableMapping[str, Any], prefix: str, _: Any) -> None:
    if module.tokenization != 1:
        state[prefix + VERSION] = torch.tensor(module.tokenization, device="cpu")


def _load_tokenization(module: TextTransformer, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
    module.tokenization = int(state.pop(prefix + VERSION, 1))
