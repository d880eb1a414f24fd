"""The two halves of diffusers' AutoencoderKL (Rombach et al., 2022), each a model of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fluxflow_pretrained.loading import PretrainedError
from fluxflow_registry import Problem
from fluxflow_registry.errors import choices, one_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and log-variance, each [B, C, h, w]."""

    mean: Tensor
    logvar: Tensor


class Half(nn.Module):
    """What both halves share: the architecture, which is part of their state, and how weights come in."""

    parts: tuple[str, ...]

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.config = dict(config)
        options = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            whole = AutoencoderKL.from_config(options)
        except Exception as error:
            raise PretrainedError(
                f"diffusers cannot build the autoencoder of this config: {one_line(error)}"
            ) from error
        for part in self.parts:
            setattr(self, part, getattr(whole, part))
        self.latent_channels = int(whole.config.latent_channels)
        self.downscale = 2 ** (len(whole.config.block_out_channels) - 1)
        #: The factor by which published latents are brought to unit size, and the shift before it.
        self.published = (float(whole.config.scaling_factor), float(whole.config.shift_factor or 0.0))
        self.eval()

    def filled(self, state: Mapping[str, Tensor] | None, dtype: str, frozen: Sequence[str], name: str) -> Self:
        """The half with its weights, its number format, and its frozen parts; raises PretrainedError."""
        if state is not None:
            own = [key for key, _ in self._network()]
            missing = sorted(key for key in own if key not in state)
            if missing:
                raise PretrainedError(f"`{name}` holds no `{missing[0]}` of the autoencoder that its config describes")
            try:
                self.load_state_dict({key: state[key] for key in own}, strict=False)
            except RuntimeError as error:
                raise PretrainedError(f"`{name}` does not fit its own config: {one_line(error)}") from error
        for part in self.parts:
            if getattr(self, part) is not None:
                getattr(self, part).to(DTYPES[dtype])
        parts = [part for part, _ in self.named_modules() if part]
        for part in frozen:
            if part not in parts:
                message = f"`frozen`: `{part}` is no part of the autoencoder"
                raise PretrainedError(Problem(message, None, choices(part, parts, "parts")))
            self.get_submodule(part).requires_grad_(False)
        return self

    def _network(self) -> list[tuple[str, Tensor]]:
        return [(key, value) for key, value in self.state_dict().items() if key.partition(".")[0] in self.parts]

    def get_extra_state(self) -> Tensor:
        """The config as bytes, which safetensors can hold."""
        return torch.frombuffer(bytearray(json.dumps(self.config).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """The config of a checkpoint is the one with which this was built."""

    def _as_weights(self, x: Tensor) -> Tensor:
        """`x` in the number format of the weights, which autocast does not touch."""
        return x.to(next(self.parameters()).dtype)


class PretrainedCompressor(Half):
    """The encoder: image [B, 3, H, W] in [-1, 1] to Posterior of mean and logvar, each [B, C, h, w].

    Buffers, 0-d: `latent_rms` = 1 / scaling factor and `latent_shift`; a flow's latent is
    (mean - latent_shift) / latent_rms. logvar is clamped to [-30, 20], as diffusers does.
    """

    parts = ("encoder", "quant_conv")
    encoder: nn.Module
    quant_conv: nn.Module | None

    def __init__(self, config: Mapping[str, Any], scaling_factor: float | None, shift: float | None) -> None:
        super().__init__(config)
        scale, published_shift = self.published
        self.register_buffer("latent_rms", torch.tensor(1.0 / (scaling_factor or scale)))
        self.register_buffer("latent_shift", torch.tensor(published_shift if shift is None else shift))

    def forward(self, image: Tensor) -> Posterior:
        """Encode the image."""
        moments = self.encoder(self._as_weights(image))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))


class PretrainedExpander(Half):
    """The decoder: latent [B, C, h, w] at the autoencoder's own scale to image [B, 3, h * downscale, w * downscale]."""

    parts = ("decoder", "post_quant_conv")
    decoder: nn.Module
    post_quant_conv: nn.Module | None

    def forward(self, latent: Tensor) -> Tensor:
        """Decode the latent."""
        z = self._as_weights(latent)
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        image: Tensor = self.decoder(z)
        return image.float()
