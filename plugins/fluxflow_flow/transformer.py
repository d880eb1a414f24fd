"""The flow transformer: the prediction for a noisy latent, given time and text."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from .blocks import FlowBlock, JointBlock, mean_token, modulate
from .positions import grid_positions, grid_rotation, sinusoids


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
        self.condition = nn.Linear(width, 2 * width)
        self.patches_out = nn.Linear(width, latent_channels * patch**2)
        for layer in (self.condition, self.patches_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

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
