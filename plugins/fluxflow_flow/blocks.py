"""Transformer blocks over image tokens that read the text by cross-attention or by joint attention."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from .positions import Rotation, rotate


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalize x [B, N, D] and return it * (1 + scale) + shift, with shift and scale [B, D]."""
    return torch.addcmul(shift[:, None], layer_norm(x, x.shape[-1:]), 1 + scale[:, None])


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts * D] to `parts` tensors [B, heads, N, D / heads], such as queries, keys and values."""
    return rearrange(x, "b n (parts heads d) -> parts b heads n d", parts=parts, heads=heads).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, N, D / heads] to [B, N, D]."""
    return rearrange(x, "b heads n d -> b n (heads d)")


def mean_token(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of the tokens without padding: [B, L, D] and [B, L] to [B, D]."""
    weight = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


class FlowBlock(nn.Module):
    """Self-attention, cross-attention to the text, and a feed-forward network; [B, N, D] to the same.

    Each branch is normalized, shifted, scaled and gated by the condition (time and pooled text);
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

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor, rotation: Rotation | None) -> Tensor:
        """Update the tokens; condition [B, C], text [B, L, T], keys [B, 1, 1, L] is False for padding."""
        (shift_a, scale_a, gate_a, shift_t, scale_t, gate_t, shift_f, scale_f, gate_f) = self.condition(
            condition
        ).chunk(9, dim=-1)
        x = torch.addcmul(x, gate_a[:, None], self._attend_to_image(modulate(x, shift_a, scale_a), rotation))
        read = self._attend_to_text(modulate(x, shift_t, scale_t), text, keys)
        x = torch.addcmul(x, gate_t[:, None], read)
        hidden = gelu(self.feed_in(modulate(x, shift_f, scale_f)), approximate="tanh")
        return torch.addcmul(x, gate_f[:, None], self.feed_out(hidden))

    def _attend_to_image(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        mixed: Tensor = self.out(merge_heads(scaled_dot_product_attention(q, k, v)))
        return mixed

    def _attend_to_text(self, x: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        (q,) = split_heads(self.query(x), 1, self.heads)
        k, v = split_heads(self.key_value(text), 2, self.heads)
        mixed: Tensor = self.text_out(merge_heads(scaled_dot_product_attention(q, k, v, attn_mask=keys)))
        return mixed


class _Stream(nn.Module):
    """The weights for one kind of token in a joint block; an `is_last` stream only supplies keys and values."""

    def __init__(self, width: int, heads: int, is_last: bool = False) -> None:
        super().__init__()
        self.heads, self.is_last = heads, is_last
        self.condition = nn.Linear(width, (2 if is_last else 6) * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.qkv = nn.Linear(width, (2 if is_last else 3) * width)
        if not is_last:
            self.out = nn.Linear(width, width)
            self.feed_in = nn.Linear(width, 4 * width)
            self.feed_out = nn.Linear(4 * width, width)

    def before_attention(self, x: Tensor, condition: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Queries, keys and values (without queries if last), and the rest of the modulation."""
        shift, scale, *rest = self.condition(condition).chunk(2 if self.is_last else 6, dim=-1)
        return split_heads(self.qkv(modulate(x, shift, scale)), 2 if self.is_last else 3, self.heads), tuple(rest)

    def after_attention(self, x: Tensor, mixed: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Add the result of the attention, then that of the feed-forward network."""
        gate_a, shift_f, scale_f, gate_f = modulation
        x = torch.addcmul(x, gate_a[:, None], self.out(mixed))
        hidden = gelu(self.feed_in(modulate(x, shift_f, scale_f)), approximate="tanh")
        return torch.addcmul(x, gate_f[:, None], self.feed_out(hidden))


class JointBlock(nn.Module):
    """Image and text tokens in one attention, each kind with its own weights (MM-DiT: Esser et al., 2024).

    Both kinds are modulated and gated by the condition, with gates that start at zero; padding of the text is masked.
    The last block does not update the text.
    """

    def __init__(self, width: int, heads: int, is_last: bool) -> None:
        super().__init__()
        self.image = _Stream(width, heads)
        self.text = _Stream(width, heads, is_last)

    def forward(
        self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        """Update image [B, N, D] and text [B, L, D]; keys [B, 1, 1, N + L] is False for padding."""
        (q, k, v), modulation = self.image.before_attention(x, condition)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        (*text_q, text_k, text_v), text_modulation = self.text.before_attention(text, condition)
        mixed = scaled_dot_product_attention(
            torch.cat([q, *text_q], dim=2),
            torch.cat([k, text_k], dim=2),
            torch.cat([v, text_v], dim=2),
            attn_mask=keys,
        )
        whole, count = merge_heads(mixed), x.shape[1]
        x = self.image.after_attention(x, whole[:, :count], modulation)
        return x, text if self.text.is_last else self.text.after_attention(text, whole[:, count:], text_modulation)
