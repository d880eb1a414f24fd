"""The flow transformer: the velocity of a noisy latent, given time and text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention


def sinusoids(position: Tensor, width: int, longest: float) -> Tensor:
    """Encode positions [...] as sines and cosines [..., width] (Vaswani et al., 2017).

    Angular frequencies fall geometrically from 1 to 1 / longest.
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=position.device) * (-math.log(longest) / max(half - 1, 1)))
    angle = position[..., None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Encode a grid: half of the channels tell the row, half the column; [rows * columns, width].

    Computed for the grid at hand, so that any height and width are possible.
    """
    row = sinusoids(torch.arange(rows, device=device), width // 2, longest=100.0)
    column = sinusoids(torch.arange(columns, device=device), width // 2, longest=100.0)
    grid = torch.cat(
        [
            row[:, None].expand(rows, columns, -1),
            column[None].expand(rows, columns, -1),
        ],
        dim=-1,
    )
    return grid.flatten(0, 1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise x [B, N, D] and apply * (1 + scale) + shift, each [B, D]."""
    return torch.addcmul(shift[:, None], layer_norm(x, x.shape[-1:]), 1 + scale[:, None])


class FlowBlock(nn.Module):
    """Self-attention, cross-attention to the text, and a feed-forward net; [B, N, D] to the same.

    Each branch is normalised, shifted, scaled and gated by the condition (time and pooled text);
    the gates start at zero, so that the block starts as the identity (adaLN-zero: Peebles and Xie,
    "Scalable diffusion models with transformers", 2023).
    """

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.condition = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width, 2 * width)
        self.text_out = nn.Linear(width, width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Update the tokens; condition [B, D], text [B, L, T], keys [B, 1, 1, L]."""
        (shift_a, scale_a, gate_a, shift_t, scale_t, gate_t, shift_f, scale_f, gate_f) = self.condition(
            condition
        ).chunk(9, dim=-1)
        x = torch.addcmul(x, gate_a[:, None], self._attend(modulate(x, shift_a, scale_a)))
        read = self._read(modulate(x, shift_t, scale_t), text, keys)
        x = torch.addcmul(x, gate_t[:, None], read)
        hidden = gelu(self.feed_in(modulate(x, shift_f, scale_f)), approximate="tanh")
        return torch.addcmul(x, gate_f[:, None], self.feed_out(hidden))

    def _attend(self, x: Tensor) -> Tensor:
        """Let image tokens look at each other."""
        q, k, v = self._split(self.qkv(x), 3)
        mixed: Tensor = self.out(self._join(scaled_dot_product_attention(q, k, v)))
        return mixed

    def _read(self, x: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Let image tokens look at the text tokens."""
        (q,) = self._split(self.query(x), 1)
        k, v = self._split(self.key_value(text), 2)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=keys)
        read: Tensor = self.text_out(self._join(mixed))
        return read

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, N, parts * D] to `parts` tensors [B, heads, N, D / heads]."""
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def _join(self, x: Tensor) -> Tensor:
        """[B, heads, N, D / heads] to [B, N, D]."""
        return x.transpose(1, 2).flatten(2)


class FlowTransformer(nn.Module):
    """Velocity field v(x_t, t, text) of a rectified flow (Liu et al., 2022; Esser et al., 2024).

    noisy_latent [B, C, h, w], h and w multiples of patch; time [B] in [0, 1], 1 is noise;
    text_tokens [B, L, text_width]; text_mask [B, L], True for a real token. Returns [B, C, h, w].
    Patches are tokens with sine-cosine positions; the condition is an embedding of the time plus
    the mean text token; all text tokens are read by cross-attention. The output starts at zero.
    """

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        patch: int = 2,
        text_width: int = 128,
    ) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"width {width} must be a multiple of heads {heads} and of 4")
        self.latent_channels, self.patch, self.width = latent_channels, patch, width
        self.patches_in = nn.Linear(latent_channels * patch**2, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(FlowBlock(width, text_width, heads) for _ in range(depth))
        self.condition = nn.Linear(width, 2 * width)
        self.patches_out = nn.Linear(width, latent_channels * patch**2)
        for layer in (self.condition, self.patches_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Give the velocity dx/dt at x_t."""
        patch = self.patch
        rows, columns = noisy_latent.shape[-2] // patch, noisy_latent.shape[-1] // patch
        tokens = nn.functional.pixel_unshuffle(noisy_latent, patch).flatten(2).transpose(1, 2)
        x = self.patches_in(tokens) + positions(rows, columns, self.width, tokens.device)
        condition = self._condition(time, text_tokens, text_mask)
        keys = text_mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, condition, text_tokens, keys)
        x = self.patches_out(modulate(x, *self.condition(condition).chunk(2, dim=-1)))
        grid = x.transpose(1, 2).unflatten(2, (rows, columns))
        return nn.functional.pixel_shuffle(grid, patch)

    def _condition(self, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Embed time and pooled text as one vector [B, D], through the SiLU that all share."""
        weight = text_mask.to(text_tokens.dtype)[:, :, None]
        pooled = (text_tokens * weight).sum(dim=1) / weight.sum(dim=1)
        # A thousand steps, as in the discrete diffusion that the encoding was made for.
        when = self.time(sinusoids(time * 1000.0, self.width, longest=10_000.0))
        return nn.functional.silu(when + self.pooled(pooled))
