"""The flow transformer, and its blocks, which read the text by cross-attention or by joint attention."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from .positions import Rotation, grid_positions, grid_rotation, rotate, sinusoids

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


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
    """The mean of the tokens without padding: [B, L, D] and [B, L] to [B, D]; 0 where all are padding."""
    weight = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def zero_initialized(layer: Layer) -> Layer:
    """Initialize a layer to zero, so that what it scales or gates changes nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class FlowBlock(nn.Module):
    """Self-attention, cross-attention to the text, and a feed-forward network; [B, N, D] to the same.

    Each branch is normalized, shifted, scaled and gated by the condition (time and pooled text);
    the gates start at zero, so that the block starts as the identity (adaLN-zero: Peebles and Xie,
    "Scalable diffusion models with transformers", 2023).
    """

    def __init__(self, width: int, text_width: int, heads: int, condition_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.condition = zero_initialized(nn.Linear(condition_width, 9 * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width, 2 * width)
        self.text_out = nn.Linear(width, width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor, rotation: Rotation | None) -> Tensor:
        """Update the tokens; condition [B, C], text [B, L, T], keys [B, 1, 1, L] is False for padding."""
        modulation = self.condition(condition).chunk(9, dim=-1)
        shift_a, scale_a, gate_a, shift_t, scale_t, gate_t, shift_f, scale_f, gate_f = modulation
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
        self.condition = zero_initialized(nn.Linear(width, (2 if is_last else 6) * width))
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
        q, k, v = torch.cat([q, *text_q], dim=2), torch.cat([k, text_k], dim=2), torch.cat([v, text_v], dim=2)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=keys)
        whole, count = merge_heads(mixed), x.shape[1]
        x = self.image.after_attention(x, whole[:, :count], modulation)
        return x, text if self.text.is_last else self.text.after_attention(text, whole[:, count:], text_modulation)


# More than a dozen members: one attribute for each layer; their names are those of the weights.
class FlowTransformer(nn.Module):
    """Prediction for x_t at t, given the text, over patches as tokens (Peebles and Xie, 2023; Esser et al., 2024).

    noisy_latent [B, C, h, w], h and w multiples of patch; time [B] in [0, 1], 1 is noise;
    text_tokens [B, L, text_width]; text_mask [B, L], False for padding. Returns [B, C, h, w].
    Patches have sine-cosine or rotary positions; the condition is an embedding of the time plus
    the mean text token; the text tokens are read by cross-attention or joint attention.
    The output starts at zero.
    """

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        patch: int = 2,
        text_width: int = 128,
        positions: Literal["sincos", "rotary"] = "sincos",
        text: Literal["cross", "joint"] = "cross",
    ) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"width {width} must be a multiple of heads {heads} and of 4")
        self.latent_channels, self.patch, self.width = latent_channels, patch, width
        self.channels_per_head = width // heads
        self.rotary, self.joint = positions == "rotary", text == "joint"
        self.patches_in = nn.Linear(latent_channels * patch**2, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(text_width, width)
        if self.joint:
            self.text_in = nn.Linear(text_width, width)
            self.blocks = nn.ModuleList(JointBlock(width, heads, is_last=n + 1 == depth) for n in range(depth))
        else:
            self.blocks = nn.ModuleList(FlowBlock(width, text_width, heads, width) for _ in range(depth))
        self.condition = zero_initialized(nn.Linear(width, 2 * width))
        self.patches_out = zero_initialized(nn.Linear(width, latent_channels * patch**2))

    def forward(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Return the prediction at x_t."""
        patch = self.patch
        rows, columns = noisy_latent.shape[-2] // patch, noisy_latent.shape[-1] // patch
        tokens = nn.functional.pixel_unshuffle(noisy_latent, patch).flatten(2).transpose(1, 2)
        x = self.patches_in(tokens)
        rotation = grid_rotation(rows, columns, self.channels_per_head, x.device) if self.rotary else None
        if rotation is None:
            x = x + grid_positions(rows, columns, self.width, tokens.device)
        condition = self._condition(time, text_tokens, text_mask)
        keys = text_mask[:, None, None, :]
        text = text_tokens
        if self.joint:
            keys = nn.functional.pad(keys, (rows * columns, 0), value=True)
            text = self.text_in(text_tokens)
        for block in self.blocks:
            if self.joint:
                x, text = block(x, condition, text, keys, rotation)
            else:
                x = block(x, condition, text, keys, rotation)
        x = self.patches_out(modulate(x, *self.condition(condition).chunk(2, dim=-1)))
        grid = x.transpose(1, 2).unflatten(2, (rows, columns))
        return nn.functional.pixel_shuffle(grid, patch)

    def _condition(self, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Embed time and mean text token as one vector [B, D], through the SiLU that all blocks share."""
        # A thousand steps, as in the discrete diffusion for which the encoding was designed.
        embedded = self.time(sinusoids(time * 1000.0, self.width, longest=10_000.0))
        return nn.functional.silu(embedded + self.pooled(mean_token(text_tokens, text_mask)))
