"""A residual UNet over latents, with attention and cross-attention to the text at chosen levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention, silu

from fluxflow_flow.blocks import join, pooled_text, split
from fluxflow_flow.models import attended
from fluxflow_flow.positions import sinusoids


def _norm(width: int) -> nn.GroupNorm:
    """Group normalisation in as many groups as fit, 32 at most."""
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 2, 1) if width % groups == 0), width)


class ResidualBlock(nn.Module):
    """y = S x + f(x), with f's second half scaled and shifted by the condition; [B, C, h, w] to [B, C', h, w].

    f is norm, SiLU, 3x3, norm * (1 + scale) + shift, SiLU, 3x3; the last convolution starts at zero, so that the block
    starts as its skip branch (Ho et al., 2020; Dhariwal and Nichol, 2021). S is the identity, or a 1x1 convolution
    where the widths differ.
    """

    def __init__(self, width_in: int, width_out: int, condition_width: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = _norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.condition = nn.Linear(condition_width, 2 * width_out)
        self.norm_out, self.conv_out = _norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1)
        _zero(self.conv_out)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Update the features; condition [B, D]."""
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm_out(self.conv_in(silu(self.norm_in(x))))
        changed: Tensor = self.skip(x) + self.conv_out(silu(torch.addcmul(shift, hidden, 1 + scale)))
        return changed


class TextBlock(nn.Module):
    """Self-attention, cross-attention to the text, and a feed-forward net over all places; [B, C, h, w] to the same.

    Each branch is normalised, and its last layer starts at zero (Rombach et al., 2022).
    """

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_text, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(text_width, 2 * width)
        self.text_out = nn.Linear(width, width)
        self.feed_in, self.feed_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.out, self.text_out, self.feed_out):
            _zero(layer)

    def forward(self, x: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Update the features; text [B, L, T], keys [B, 1, 1, L] is True where one may look."""
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = split(self.qkv(self.norm_self(tokens)), 3, self.heads)
        tokens = tokens + self.out(join(scaled_dot_product_attention(q, k, v)))
        (q,) = split(self.query(self.norm_text(tokens)), 1, self.heads)
        k, v = split(self.key_value(text), 2, self.heads)
        tokens = tokens + self.text_out(join(scaled_dot_product_attention(q, k, v, attn_mask=keys)))
        tokens = tokens + self.feed_out(gelu(self.feed_in(self.norm_feed(tokens)), approximate="tanh"))
        features: Tensor = tokens.transpose(1, 2).unflatten(2, (height, width))
        return features


class Stage(nn.Module):
    """A residual block and, where there is attention, a text block."""

    def __init__(self, width_in: int, width_out: int, condition_width: int, text: TextBlock | None) -> None:
        super().__init__()
        self.residual = ResidualBlock(width_in, width_out, condition_width)
        self.text: nn.Module | None = text

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Update the features."""
        features: Tensor = self.residual(x, condition)
        if self.text is not None:
            features = self.text(features, text, keys)
        return features


class Unet(nn.Module):
    """Prediction for x_t at t, given the text, by a UNet (Ho et al., 2020; Rombach et al., 2022).

    noisy_latent [B, C, h, w], h and w multiples of `patch` = 2^(levels - 1); time [B] in [0, 1], 1 is noise;
    text_tokens [B, L, text_width]; text_mask [B, L], True for a real token. Returns [B, C, h, w].
    Level i has width * channel_mults[i] channels at 1 / 2^i of the side, and `depth` stages on the way down and
    depth + 1 on the way up, each of which takes in the features of its counterpart. Time and mean text token condition
    every residual block; the levels in `attention` (None: all but the finest) read all text tokens as well.
    At some times the prediction is mostly x_t itself: that is added with a gain for each channel, which the condition
    gives, so that normalised features need not carry it (as the skip of Karras et al., 2022). The output starts at
    zero.
    """

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 128,
        channel_mults: Sequence[int] = (1, 2, 2),
        depth: int = 2,
        attention: Sequence[int] | None = None,
        heads: int = 4,
        text_width: int = 128,
    ) -> None:
        super().__init__()
        self.latent_channels, self.width, self.patch = latent_channels, width, 2 ** (len(channel_mults) - 1)
        inner = 4 * width
        self.time = nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.pooled = nn.Linear(text_width, inner)
        widths, levels = [width * factor for factor in channel_mults], attended(channel_mults, attention)

        def stage(level: int, width_in: int) -> Stage:
            text = TextBlock(widths[level], text_width, heads) if level in levels else None
            return Stage(width_in, widths[level], inner, text)

        self.enter = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        kept, here = [widths[0]], widths[0]
        self.down, self.halvings = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            self.down.append(nn.ModuleList(stage(level, here if n == 0 else wide) for n in range(depth)))
            kept += [wide] * depth
            here = wide
            if level + 1 < len(widths):
                self.halvings.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
                kept.append(wide)
        self.middle = nn.ModuleList([stage(len(widths) - 1, here), Stage(here, here, inner, None)])
        self.up, self.doublings = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            stages = nn.ModuleList()
            for _ in range(depth + 1):
                stages.append(stage(level, here + kept.pop()))
                here = widths[level]
            self.up.append(stages)
            if level:
                self.doublings.append(nn.Conv2d(here, here, 3, padding=1))
        self.norm, self.leave = _norm(here), nn.Conv2d(here, latent_channels, 3, padding=1)
        _zero(self.leave)
        self.through = nn.Linear(inner, latent_channels)
        _zero(self.through)

    def forward(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Give the prediction at x_t."""
        given = (self._condition(time, text_tokens, text_mask), text_tokens, text_mask[:, None, None, :])
        x = self.enter(noisy_latent)
        kept = [x]
        for level, stages in enumerate(self.down):
            for stage in cast(nn.ModuleList, stages):
                x = stage(x, *given)
                kept.append(x)
            if level < len(self.halvings):
                x = self.halvings[level](x)
                kept.append(x)
        for stage in self.middle:
            x = stage(x, *given)
        for level, stages in enumerate(self.up):
            for stage in cast(nn.ModuleList, stages):
                x = stage(torch.cat([x, kept.pop()], dim=1), *given)
            if level < len(self.doublings):
                x = self.doublings[level](interpolate(x, scale_factor=2.0, mode="nearest"))
        gain = self.through(given[0])[:, :, None, None]
        return torch.addcmul(self.leave(silu(self.norm(x))), gain, noisy_latent)

    def _condition(self, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Embed time and pooled text as one vector [B, 4 width], through the SiLU that all share."""
        when = self.time(sinusoids(time * 1000.0, self.width, longest=10_000.0))
        return silu(when + self.pooled(pooled_text(text_tokens, text_mask)))


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Let a layer start at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
