"""Transformer blocks over image tokens, with the text read by cross- or by joint attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from fluxflow_flow.positions import Rotation, rotate


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise x [B, N, D] and apply * (1 + scale) + shift, each [B, D]."""
    return torch.addcmul(shift[:, None], layer_norm(x, x.shape[-1:]), 1 + scale[:, None])


def split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts * D] to `parts` tensors [B, heads, N, D / heads]."""
    batch, length, _ = x.shape
    return x.view(batch, length, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def join(x: Tensor) -> Tensor:
    """[B, heads, N, D / heads] to [B, N, D]."""
    return x.transpose(1, 2).flatten(2)


def pooled_text(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens: [B, L, D] and [B, L] to [B, D]."""
    weight = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


class FlowBlock(nn.Module):
    """Self-attention, cross-attention to the text, and a feed-forward net; [B, N, D] to the same.

    Each branch is normalised, shifted, scaled and gated by the condition (time and pooled text);
    the gates start at zero, so that the block starts as the identity (adaLN-zero: Peebles and Xie,
    "Scalable diffusion models with transformers", 2023).
    """

    def __init__(self, width: int, text_width: int, heads: int, condition_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.condition = nn.Linear(condition_width, 9 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width, 2 * width)
        self.text_out = nn.Linear(width, width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor, turn: Rotation | None) -> Tensor:
        """Update the tokens; condition [B, C], text [B, L, T], keys [B, 1, 1, L]; `turn` for rotary positions."""
        (shift_a, scale_a, gate_a, shift_t, scale_t, gate_t, shift_f, scale_f, gate_f) = self.condition(
            condition
        ).chunk(9, dim=-1)
        x = torch.addcmul(x, gate_a[:, None], self._attend(modulate(x, shift_a, scale_a), turn))
        read = self._read(modulate(x, shift_t, scale_t), text, keys)
        x = torch.addcmul(x, gate_t[:, None], read)
        hidden = gelu(self.feed_in(modulate(x, shift_f, scale_f)), approximate="tanh")
        return torch.addcmul(x, gate_f[:, None], self.feed_out(hidden))

    def _attend(self, x: Tensor, turn: Rotation | None) -> Tensor:
        """Let image tokens look at each other."""
        q, k, v = split(self.qkv(x), 3, self.heads)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        mixed: Tensor = self.out(join(scaled_dot_product_attention(q, k, v)))
        return mixed

    def _read(self, x: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Let image tokens look at the text tokens."""
        (q,) = split(self.query(x), 1, self.heads)
        k, v = split(self.key_value(text), 2, self.heads)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=keys)
        read: Tensor = self.text_out(join(mixed))
        return read


class _Stream(nn.Module):
    """The weights of one kind of token in a joint block; where it `ends`, only what others look at is computed."""

    def __init__(self, width: int, heads: int, ends: bool = False) -> None:
        super().__init__()
        self.heads, self.ends = heads, ends
        self.condition = nn.Linear(width, (2 if ends else 6) * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.qkv = nn.Linear(width, (2 if ends else 3) * width)
        if not ends:
            self.out = nn.Linear(width, width)
            self.feed_in = nn.Linear(width, 4 * width)
            self.feed_out = nn.Linear(4 * width, width)

    def enter(self, x: Tensor, condition: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Queries, keys and values (keys and values where it ends), and the rest of the modulation."""
        shift, scale, *rest = self.condition(condition).chunk(2 if self.ends else 6, dim=-1)
        return split(self.qkv(modulate(x, shift, scale)), 2 if self.ends else 3, self.heads), tuple(rest)

    def leave(self, x: Tensor, mixed: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """Take in what attention has mixed, then the feed-forward net."""
        gate_a, shift_f, scale_f, gate_f = rest
        x = torch.addcmul(x, gate_a[:, None], self.out(mixed))
        hidden = gelu(self.feed_in(modulate(x, shift_f, scale_f)), approximate="tanh")
        return torch.addcmul(x, gate_f[:, None], self.feed_out(hidden))


class JointBlock(nn.Module):
    """Image and text tokens in one attention, each kind with weights of its own (MM-DiT: Esser et al., 2024).

    Both kinds are modulated and gated by the condition, with gates that start at zero; padding of the text is never
    looked at. In the last block the text is only looked at.
    """

    def __init__(self, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.image = _Stream(width, heads)
        self.text = _Stream(width, heads, ends=last)

    def forward(
        self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor, turn: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        """Update image [B, N, D] and text [B, L, D]; keys [B, 1, 1, N + L] is True where one may look."""
        (q, k, v), rest = self.image.enter(x, condition)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        (*text_q, text_k, text_v), text_rest = self.text.enter(text, condition)
        mixed = scaled_dot_product_attention(
            torch.cat([q, *text_q], dim=2),
            torch.cat([k, text_k], dim=2),
            torch.cat([v, text_v], dim=2),
            attn_mask=keys,
        )
        whole = join(mixed)
        x = self.image.leave(x, whole[:, : x.shape[1]], rest)
        return x, text if self.text.ends else self.text.leave(text, whole[:, x.shape[1] :], text_rest)
