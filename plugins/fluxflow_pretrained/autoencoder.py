"""The two halves of diffusers' AutoencoderKL (Rombach et al., 2022), each a model of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxflow_registry import one_line

from .published import DESCRIPTION, DTYPES, PretrainedError, Published, freeze, from_tensor, missing_library, to_tensor

#: Names of weights as diffusers writes them.
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and log-variance, each [B, C, h, w]."""

    mean: Tensor
    logvar: Tensor


class _Half(nn.Module):
    """What both halves share: their architecture, which is part of their state, and how they are loaded."""

    parts: tuple[str, ...]
    component: str

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.config = dict(config)
        options = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            whole = AutoencoderKL.from_config(options)
        except Exception as error:
            message = f"model `{self.component}`: diffusers cannot build an AutoencoderKL from its config"
            notes = [("cause", one_line(error))]
            raise PretrainedError(message, None, notes, code="component-failed", subject=self.component) from error
        for part in self.parts:
            setattr(self, part, getattr(whole, part))
        self.latent_channels = int(whole.config.latent_channels)
        self.downscale = 2 ** (len(whole.config.block_out_channels) - 1)
        self.scaling_factor = float(whole.config.scaling_factor)
        self.shift_factor = float(whole.config.shift_factor or 0.0)
        self.eval()

    def fill(self, state: Mapping[str, Tensor] | None, dtype: str, frozen: Sequence[str], name: str) -> Self:
        """Load the weights, convert them to the number format, freeze parts; raises PretrainedError."""
        if state is not None:
            own = [key for key in self.state_dict() if key.partition(".")[0] in self.parts]
            missing = sorted(key for key in own if key not in state)
            if missing:
                message = f"the weights of `{name}` have no `{missing[0]}`, which its config describes"
                raise PretrainedError(message, code="missing-weights", subject=missing[0])
            try:
                self.load_state_dict({key: state[key] for key in own}, strict=False)
            except RuntimeError as error:
                message, cause = f"the weights of `{name}` do not fit its config", ("cause", one_line(error))
                raise PretrainedError(message, None, (cause,), code="wrong-shape", subject=name) from error
        for part in self.parts:
            if getattr(self, part) is not None:
                getattr(self, part).to(DTYPES[dtype])
        freeze(self, frozen, self.component)
        return self

    def get_extra_state(self) -> Tensor:
        """The config, as part of the state dict."""
        return to_tensor(self.config)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: the model is built with the config of the state dict that will be loaded."""

    def _cast(self, x: Tensor) -> Tensor:
        """`x` in the number format of the weights, which autocast does not change."""
        return x.to(next(self.parameters()).dtype)


class PretrainedCompressor(_Half):
    """The encoder: image [B, 3, H, W] in [-1, 1] to Posterior of mean and logvar, each [B, C, h, w].

    Buffers, 0-d: `latent_rms` = 1 / scaling factor and `latent_shift`; a flow's latent is
    (mean - latent_shift) / latent_rms. logvar is clamped to [-30, 20], as in diffusers.
    """

    parts = ("encoder", "quant_conv")
    component = "pretrained_compressor"
    encoder: nn.Module
    quant_conv: nn.Module | None

    def __init__(self, config: Mapping[str, Any], scaling_factor: float | None, shift: float | None) -> None:
        super().__init__(config)
        self.register_buffer("latent_rms", torch.tensor(1.0 / (scaling_factor or self.scaling_factor)))
        self.register_buffer("latent_shift", torch.tensor(self.shift_factor if shift is None else shift))

    def forward(self, image: Tensor) -> Posterior:
        """Encode the image."""
        moments = self.encoder(self._cast(image))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))


class PretrainedExpander(_Half):
    """The decoder: latent [B, C, h, w] at the autoencoder's own scale to image [B, 3, h * downscale, w * downscale]."""

    parts = ("decoder", "post_quant_conv")
    component = "pretrained_expander"
    decoder: nn.Module
    post_quant_conv: nn.Module | None

    def forward(self, latent: Tensor) -> Tensor:
        """Decode the latent."""
        z = self._cast(latent)
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        image: Tensor = self.decoder(z)
        return image.float()


def read_autoencoder(
    name: str, subfolder: str | None, revision: str | None, weights: Mapping[str, Tensor] | None
) -> tuple[dict[str, Any], Mapping[str, Tensor] | None]:
    """The config of an autoencoder and its published tensors, or None if `weights` will be loaded instead.

    Raises PretrainedError if the library or the files are missing.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise missing_library("diffusers", "diffusers") from error
    if weights is not None and DESCRIPTION in weights:
        return from_tensor(weights[DESCRIPTION]), None
    inside = f"{subfolder}/" if subfolder else ""
    published = Published(name, revision, (f"{inside}config.json", f"{inside}*.safetensors"), subfolder)
    folder = published.folder()
    config = _read_config(folder)
    file = next((folder / each for each in FILES if (folder / each).is_file()), None)
    if file is None:
        raise published.without_safetensors(folder, FILES[0])
    if torch.get_default_device().type == "meta":
        return config, None
    try:
        return config, load_file(file)
    except Exception as error:  # a file can be damaged in more ways than its reader documents
        message, cause = f"file `{file}` cannot be read as safetensors", ("cause", one_line(error))
        raise PretrainedError(message, None, (cause,), code="unreadable-file", subject=str(file)) from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        found = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message, cause = f"folder `{folder}` contains no config.json of an AutoencoderKL", ("cause", one_line(error))
        raise PretrainedError(message, None, (cause,), code="unreadable-file", subject=str(folder)) from error
    if found != "AutoencoderKL":
        message = f"the config.json in folder `{folder}` describes a {found}, not an AutoencoderKL"
        raise PretrainedError(message, code="wrong-type", subject=str(folder))
    return {str(key): value for key, value in config.items()}
