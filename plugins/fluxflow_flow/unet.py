"""A residual UNet over latents, with attention and cross-attention to the text at chosen levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from fluxflow_flow.blocks import FlowBlock, pooled_text
from fluxflow_flow.models import attended
from fluxflow_flow.positions import positions, sinusoids


def _norm(width: int) -> nn.GroupNorm:
    """Group normalisation in as many groups as fit, 32 at most."""
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 2, 1) if width % groups == 0), width)


class ResidualBlock(nn.Module):
    """y = S x + g f(x), with f shifted, scaled and gated by the condition; [B, C, h, w] to [B, C', h, w].

    f is norm, SiLU, 3x3, norm * (1 + scale) + shift, SiLU, 3x3 (Ho et al., 2020; Dhariwal and Nichol, 2021). The
    gate g starts at zero, so that the block starts as its skip branch, with f's weights at work as soon as the gate
    opens (Peebles and Xie, 2023). S is the identity, or a 1x1 convolution where the widths differ.
    """

    def __init__(self, width_in: int, width_out: int, condition_width: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = _norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.condition, self.gate = nn.Linear(condition_width, 2 * width_out), nn.Linear(condition_width, width_out)
        self.norm_out, self.conv_out = _norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1)
        _zero(self.gate)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Update the features; condition [B, D]."""
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm_out(self.conv_in(silu(self.norm_in(x))))
        hidden = self.conv_out(silu(torch.addcmul(shift, hidden, 1 + scale)))
        return torch.addcmul(self.skip(x), self.gate(condition)[:, :, None, None], hidden)


class Stage(nn.Module):
    """A residual block and, where there is attention, a block of the flow transformer over all places."""

    def __init__(self, width_in: int, width_out: int, condition_width: int, text: FlowBlock | None) -> None:
        super().__init__()
        self.residual = ResidualBlock(width_in, width_out, condition_width)
        self.text: nn.Module | None = text

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, keys: Tensor) -> Tensor:
        """Update the features; condition [B, D], text [B, L, T], keys [B, 1, 1, L] is True where one may look."""
        features: Tensor = self.residual(x, condition)
        if self.text is None:
            return features
        tokens: Tensor = self.text(features.flatten(2).transpose(1, 2), condition, text, keys, None)
        return tokens.transpose(1, 2).reshape(features.shape)


# More than a dozen members: one attribute for each layer; their names are those of the weights.
class Unet(nn.Module):
    """Prediction for x_t at t, given the text, by a UNet (Ho et al., 2020; Rombach et al., 2022).

    noisy_latent [B, C, h, w], h and w multiples of `patch` = 2^(levels - 1); time [B] in [0, 1], 1 is noise;
    text_tokens [B, L, text_width]; text_mask [B, L], True for a real token. Returns [B, C, h, w].
    Level i has width * channel_mults[i] channels at 1 / 2^i of the side, and `depth` stages on the way down and
    depth + 1 on the way up, each of which takes in the features of its counterpart. Sines and cosines of row and
    column are added where the latent enters: text says where things are. Time and mean text token condition every
    block and the features that leave, whose size depends on the time; the levels in `attention` (None: all but the
    finest) read all text tokens as well. At some times the prediction is mostly x_t itself: that is added with a gain
    for each channel, which the condition gives, so that normalised features need not carry it (as the skip of Karras
    et al., 2022). The output starts at zero.
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
            text = FlowBlock(widths[level], text_width, heads, inner) if level in levels else None
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
        self.condition, self.through = nn.Linear(inner, 2 * here), nn.Linear(inner, latent_channels)
        for layer in (self.condition, self.through, self.leave):
            _zero(layer)

    def forward(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Give the prediction at x_t."""
        given = (self._condition(time, text_tokens, text_mask), text_tokens, text_mask[:, None, None, :])
        x = self.enter(noisy_latent)
        width, rows, columns = x.shape[1:]
        x = x + positions(rows, columns, width, x.device).T.reshape(width, rows, columns)
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
        scale, shift = self.condition(given[0])[:, :, None, None].chunk(2, dim=1)
        x = self.leave(silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return torch.addcmul(x, self.through(given[0])[:, :, None, None], noisy_latent)

    def _condition(self, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Embed time and pooled text as one vector [B, 4 width], through the SiLU that all share."""
        when = self.time(sinusoids(time * 1000.0, self.width, longest=10_000.0))
        return silu(when + self.pooled(pooled_text(text_tokens, text_mask)))


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Let a layer start at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
