"""The convolutional autoencoder: a compressor to a Gaussian posterior and an expander back."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .activations import Activation, build_same_width_activation
from .blocks import (
    Film,
    Norm,
    ResidualBlock,
    SelfAttention,
    SpadeBlock,
    Upsampling,
    build_downsampling,
    build_upsampling,
)


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and log-variance, each [B, C, h, w]."""

    mean: Tensor
    logvar: Tensor


def _widths(width: int, downscale: int, patch: int) -> list[int]:
    """Widths from the finest to the coarsest resolution, doubling at each, up to four times."""
    if patch < 1 or downscale % patch or (downscale // patch).bit_count() != 1:
        raise ValueError(f"downscale {downscale} must be patch {patch} times a power of two (1, 2, 4, ...)")
    return [width * min(2**level, 4) for level in range(int(math.log2(downscale // patch)) + 1)]


def _level_of_attention(attention: bool, attention_downscale: int | None, downscale: int, patch: int) -> int | None:
    """The level, counted from the finest, that has self-attention; None without attention."""
    return int(math.log2((attention_downscale or downscale) // patch)) if attention else None


class Compressor(nn.Module):
    """Encoder q(z|x) = N(mean, exp(logvar)) of a variational autoencoder (Kingma, Welling, 2014).

    image [B, 3, H, W] in [-1, 1] to Posterior of [B, latent_channels, H/downscale, W/downscale];
    H and W multiples of downscale. Pixels enter as patches (pixel-unshuffle), so that nothing is
    computed at full resolution; each further halving is a strided convolution. Both heads start
    near zero; logvar is clamped to [-10, 10].

    The buffer `latent_rms` (0-d) tracks the root mean square of the mean over training batches; its inverse is the
    global scale that brings latents to unit variance (Rombach et al., 2022). With `scaling_factor` it is the constant
    1 / scaling_factor. `latent_shift` (0-d) is subtracted first: a flow learns (mean - latent_shift) / latent_rms, and
    the expander decodes x latent_rms + latent_shift. Here it is zero, also in weights that lack it.
    """

    latent_rms: Tensor
    latent_shift: Tensor

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 48,
        depth: int = 1,
        downscale: int = 4,
        patch: int = 2,
        activation: Activation = "silu",
        norm: Norm = "none",
        attention: bool = False,
        attention_downscale: int | None = None,
        scaling_factor: float | None = None,
    ) -> None:
        super().__init__()
        self.latent_channels, self.downscale = latent_channels, downscale
        self.scaling_factor = scaling_factor
        widths = _widths(width, downscale, patch)
        attention_level = _level_of_attention(attention, attention_downscale, downscale, patch)
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(3 * patch**2, width, 3, padding=1)]
        for level, here in enumerate(widths):
            layers += [ResidualBlock(here, activation, norm) for _ in range(depth)]
            if level == attention_level:
                layers.append(SelfAttention(here))
            if level + 1 < len(widths):
                layers.append(build_downsampling(here, widths[level + 1], activation, norm))
        self.body = nn.Sequential(*layers, build_same_width_activation(activation, widths[-1]))
        self.mean = _small_initialized(nn.Conv2d(widths[-1], latent_channels, 3, padding=1))
        self.logvar = _small_initialized(nn.Conv2d(widths[-1], latent_channels, 3, padding=1))
        self.register_buffer("latent_rms", torch.ones(()) / (scaling_factor or 1.0))
        self.register_buffer("latent_shift", torch.zeros(()))

    def forward(self, image: Tensor) -> Posterior:
        """Encode the image; raises ValueError for sides that are not multiples of downscale."""
        height, width = image.shape[-2:]
        if height % self.downscale or width % self.downscale:
            size, rule = f"{width} x {height} pixels", f"its sides must be multiples of {self.downscale}"
            raise ValueError(f"the compressor cannot encode an image of {size}: {rule}")
        features = self.body(image)
        mean = self.mean(features)
        if self.training and self.scaling_factor is None:
            self._track_rms(mean.detach())
        return Posterior(mean, self.logvar(features).clamp(-10.0, 10.0))

    @torch.no_grad()
    def _track_rms(self, mean: Tensor) -> None:
        """Move latent_rms^2 by a hundredth of the way to this batch's mean square, if that is finite."""
        of_batch = mean.float().square().mean()
        square = torch.lerp(self.latent_rms.square(), of_batch, 0.01)
        self.latent_rms.copy_(torch.where(of_batch.isfinite(), square.sqrt(), self.latent_rms))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load weights; weights saved before `latent_shift` existed have a shift of zero."""
        state_dict.setdefault(f"{prefix}latent_shift", torch.zeros_like(self.latent_shift))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Expander(nn.Module):
    """Decoder of a variational autoencoder, the mirror image of `Compressor`.

    latent [B, latent_channels, h, w], at the autoencoder's own scale, to image
    [B, 3, h * downscale, w * downscale], about [-1, 1] and unbounded. Interpolation and convolution
    up to H / patch, then the last convolution's channels become pixels (Shi et al., 2016).

    With `spade` each resolution has a residual SPADE block, whose context is the latent itself (Zheng et al.,
    "MoVQ", 2022). Each call may switch the blocks on or off; the buffer `spade_active` (0-d) keeps the last switch
    made in training, which holds for calls without one. With `film_width` each resolution has a FiLM layer, which
    calls with a vector [B, film_width] use.
    """

    spade_active: Tensor

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 48,
        depth: int = 1,
        downscale: int = 4,
        patch: int = 2,
        activation: Activation = "silu",
        norm: Norm = "none",
        upsample: Upsampling = "interpolate",
        attention: bool = False,
        attention_downscale: int | None = None,
        spade: bool = False,
        film_width: int | None = None,
    ) -> None:
        super().__init__()
        self.latent_channels, self.downscale = latent_channels, downscale
        self.spade, self.film_width = spade, film_width
        widths = _widths(width, downscale, patch)[::-1]
        attention_level = _level_of_attention(attention, attention_downscale, downscale, patch)
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        for level, here in enumerate(widths):
            if len(widths) - 1 - level == attention_level:
                layers.append(SelfAttention(here))
            layers += [ResidualBlock(here, activation, norm) for _ in range(depth)]
            if spade:
                layers.append(SpadeBlock(here, latent_channels, activation))
            if film_width is not None:
                layers.append(Film(here, film_width))
            if level + 1 < len(widths):
                layers.append(build_upsampling(here, widths[level + 1], activation, norm, upsample))
        self.body = nn.Sequential(*layers, build_same_width_activation(activation, widths[-1]))
        self.out = nn.Sequential(nn.Conv2d(widths[-1], 3 * patch**2, 3, padding=1), nn.PixelShuffle(patch))
        if spade:
            self.register_buffer("spade_active", torch.ones((), dtype=torch.bool))

    def forward(self, latent: Tensor, spade: bool | None = None, vector: Tensor | None = None) -> Tensor:
        """Decode the latent, with SPADE blocks on, off, or (None) as they were last trained.

        Raises ValueError if this expander has no layers for what the call requests.
        """
        if spade and not self.spade:
            raise ValueError("the expander has no SPADE blocks: set `spade: true` in its entry")
        if vector is not None and vector.shape[-1] != self.film_width:
            width, film = vector.shape[-1], self.film_width
            raise ValueError(f"the expander cannot use a vector of width {width}: its `film_width` is {film}")
        if self.spade and self.training and spade is not None:
            self.spade_active.fill_(spade)
        x = latent
        for layer in self.body:
            if isinstance(layer, SpadeBlock):
                x = self._apply_spade(layer, x, latent, spade)
            elif not isinstance(layer, Film):
                x = layer(x)
            elif vector is not None:
                x = layer(x, vector)
        image: Tensor = self.out(x)
        return image

    def _apply_spade(self, block: SpadeBlock, x: Tensor, context: Tensor, spade: bool | None) -> Tensor:
        """Add a SPADE block's change to x; a block that is off is not computed."""
        if spade is None:
            # Reading the buffer would wait for the device. A copy, since it may change before the backward pass.
            return x + torch.where(self.spade_active.clone(), block(x, context), 0.0)
        return x + block(x, context) if spade else x


def _small_initialized(head: nn.Conv2d) -> nn.Conv2d:
    """Initialize a head near zero, so that the posterior starts close to N(0, 1) for every image."""
    nn.init.normal_(head.weight, std=1e-2 / math.sqrt(head.in_channels))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head
