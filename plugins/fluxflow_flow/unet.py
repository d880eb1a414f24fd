"""A residual UNet over latents, with attention and cross-attention to the text at chosen levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from .models import attention_levels
from .positions import grid_positions, sinusoids
from .transformer import FlowBlock, mean_token, zero_initialized


def _norm(width: int) -> nn.GroupNorm:
    """Group normalization in as many groups as divide the width, at most 32."""
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 2, 1) if width % groups == 0), width)


class ResidualBlock(nn.Module):
    """y = S x + g f(x), with f shifted, scaled and gated by the condition; [B, C, h, w] to [B, C', h, w].

    f is norm, SiLU, 3x3, norm * (1 + scale) + shift, SiLU, 3x3 (Ho et al., 2020; Dhariwal and Nichol, 2021). The
    gate g starts at zero, so that the block starts as its skip branch, and f's weights learn as soon as the gate
    is not zero (Peebles and Xie, 2023). S is the identity, or a 1x1 convolution if the widths differ.
    """

    def __init__(self, width_in: int, width_out: int, condition_width: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = _norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.condition = nn.Linear(condition_width, 2 * width_out)
        self.gate = zero_initialized(nn.Linear(condition_width, width_out))
        self.norm_out, self.conv_out = _norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Update the features; condition [B, D]."""
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm_out(self.conv_in(silu(self.norm_in(x))))
        hidden = self.conv_out(silu(torch.addcmul(shift, hidden, 1 + scale)))
        return torch.addcmul(self.skip(x), self.gate(condition)[:, :, None, None], hidden)


class Stage(nn.Module):
    """A residual block and, at levels with attention, a block of the flow transformer over all positions."""

    def __init__(self, width_in: int, width_out: int, condition_width: int, text: FlowBlock | None) -> None:
        super().__init__()
        self.residual = ResidualBlock(width_in, width_out, condition_width)
        self.text: nn.Module | None = text

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Update the features; condition [B, D], text [B, L, T], keys [B, 1, 1, L] is False for padding."""
        features: Tensor = self.residual(x, condition)
        if self.text is None:
            return features
        tokens: Tensor = self.text(rearrange(features, "b c h w -> b (h w) c"), condition, text, keys, None)
        return rearrange(tokens, "b (h w) c -> b c h w", h=features.shape[-2])


# More than a dozen members: one attribute for each layer; their names are those of the weights.
class Unet(nn.Module):
    """Prediction for x_t at t, given the text, by a UNet (Ho et al., 2020; Rombach et al., 2022).

    noisy_latent [B, C, h, w], h and w multiples of `patch` = 2^(levels - 1); time [B] in [0, 1], 1 is noise;
    text_tokens [B, L, text_width]; text_mask [B, L], False for padding. Returns [B, C, h, w].
    Level i has width * channel_mults[i] channels at 1 / 2^i of the side, with `depth` stages on the way down and
    depth + 1 on the way up, each of which also reads the features of its counterpart. Sines and cosines of row and
    column are added to the input, since captions describe positions. Time and mean text token condition every
    block and the output features, whose scale depends on the time; the levels in `attention` (None: all but the
    finest) also read all text tokens. At some times the prediction is mostly x_t itself, which is added with a gain
    per channel, computed from the condition, so that normalized features need not represent it (as in the skip
    connection of Karras et al., 2022). The output starts at zero.
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
        widths, levels = [width * factor for factor in channel_mults], attention_levels(channel_mults, attention)

        def stage(level: int, width_in: int) -> Stage:
            text = FlowBlock(widths[level], text_width, heads, inner) if level in levels else None
            return Stage(width_in, widths[level], inner, text)

        self.enter = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        skips, here = [widths[0]], widths[0]
        self.down, self.halvings = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            self.down.append(nn.ModuleList(stage(level, here if n == 0 else wide) for n in range(depth)))
            skips += [wide] * depth
            here = wide
            if level + 1 < len(widths):
                self.halvings.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
                skips.append(wide)
        self.middle = nn.ModuleList([stage(len(widths) - 1, here), Stage(here, here, inner, None)])
        self.up, self.doublings = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            stages = nn.ModuleList()
            for _ in range(depth + 1):
                stages.append(stage(level, here + skips.pop()))
                here = widths[level]
            self.up.append(stages)
            if level:
                self.doublings.append(nn.Conv2d(here, here, 3, padding=1))
        self.norm, self.leave = _norm(here), zero_initialized(nn.Conv2d(here, latent_channels, 3, padding=1))
        self.condition = zero_initialized(nn.Linear(inner, 2 * here))
        self.through = zero_initialized(nn.Linear(inner, latent_channels))

    def forward(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Return the prediction at x_t."""
        condition = self._condition(time, text_tokens, text_mask)
        inputs = (condition, text_tokens, text_mask[:, None, None, :])
        x = self.enter(noisy_latent)
        width, rows, columns = x.shape[1:]
        x = x + rearrange(grid_positions(rows, columns, width, x.device), "(h w) c -> c h w", h=rows)
        skips = [x]
        for level, stages in enumerate(self.down):
            for stage in cast(nn.ModuleList, stages):
                x = stage(x, *inputs)
                skips.append(x)
            if level < len(self.halvings):
                x = self.halvings[level](x)
                skips.append(x)
        for stage in self.middle:
            x = stage(x, *inputs)
        for level, stages in enumerate(self.up):
            for stage in cast(nn.ModuleList, stages):
                x = stage(torch.cat([x, skips.pop()], dim=1), *inputs)
            if level < len(self.doublings):
                x = self.doublings[level](interpolate(x, scale_factor=2.0, mode="nearest"))
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        x = self.leave(silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return torch.addcmul(x, self.through(condition)[:, :, None, None], noisy_latent)

    def _condition(self, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Embed time and mean text token as one vector [B, 4 width], through the SiLU that all blocks share."""
        embedded = self.time(sinusoids(time * 1000.0, self.width, longest=10_000.0))
        return silu(embedded + self.pooled(mean_token(text_tokens, text_mask)))
