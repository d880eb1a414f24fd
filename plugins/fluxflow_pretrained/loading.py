"""Where a published autoencoder is, and what its files say; nothing is ever downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fluxflow_registry import FluxflowError
from fluxflow_registry.errors import one_line

#: Where the state dict of one of our halves holds its architecture, as JSON.
DESCRIPTION = "_extra_state"

#: The names that diffusers gives a file of weights without code in it.
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


class PretrainedError(FluxflowError):
    """A published model cannot be had: its library or its files are missing, or they do not fit."""


def found(
    name: str, subfolder: str | None, revision: str | None, who: str, weights: Mapping[str, Tensor] | None
) -> tuple[dict[str, Any], Mapping[str, Tensor] | None]:
    """The config and the tensors of an autoencoder: those in its folder, or None where others will be loaded.

    Raises PretrainedError where the library or the files are missing.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise PretrainedError(f"{who} needs diffusers: pip install 'fluxflow-registry[diffusers]'") from error
    if weights is not None and DESCRIPTION in weights:
        config: dict[str, Any] = json.loads(bytes(weights[DESCRIPTION].cpu().numpy()))
        return config, None
    folder = folder_of(name, subfolder, revision)
    config = _config(folder)
    file = next((folder / each for each in FILES if (folder / each).is_file()), None)
    if file is None:
        fetch = "" if Path(name).expanduser().is_dir() else f"; fetch it with: {command(name, revision, subfolder)}"
        raise PretrainedError(f"{folder} holds no {FILES[0]} (weights in torch's own format can hold code){fetch}")
    if torch.get_default_device().type == "meta":
        return config, None
    try:
        return config, load_file(file)
    except Exception as error:  # a file can be damaged in more ways than its reader counts
        raise PretrainedError(f"{file} cannot be read: {one_line(error)}") from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        known = config["_class_name"] == "AutoencoderKL"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PretrainedError(f"{folder} holds no config.json of an AutoencoderKL: {one_line(error)}") from error
    if not known:
        raise PretrainedError(f"{folder} holds a {config['_class_name']}, not an AutoencoderKL")
    return {str(key): value for key, value in config.items()}


def folder_of(name: str, subfolder: str | None, revision: str | None) -> Path:
    """The folder of an autoencoder by its path or its name on the Hugging Face hub.

    Raises PretrainedError, with the command that fetches the files, where they are not on this machine.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    path = Path(name).expanduser()
    if path.is_dir():
        return path / (subfolder or "")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise PretrainedError(f"there is no folder {path}")
    inside = f"{subfolder}/" if subfolder else ""
    try:
        cached = try_to_load_from_cache(name, f"{inside}config.json", revision=revision)
    except ValueError:
        raise PretrainedError(f"`{name}` is neither a folder nor a name on the hub") from None
    if isinstance(cached, str):
        return Path(cached).parent
    what = f"`{name}`" + (f" (its subfolder `{subfolder}`)" if subfolder else "")
    raise PretrainedError(
        f"{what} is neither a folder nor in {constants.HF_HUB_CACHE} (HF_HOME sets the place), and training "
        f"downloads nothing; where there is a network, fetch it with: {command(name, revision, subfolder)}"
    )


def command(name: str, revision: str | None, subfolder: str | None = None) -> str:
    """The command line that fetches an autoencoder."""
    at = f" --revision {revision}" if revision else ""
    inside = f"{subfolder}/" if subfolder else ""
    return f'hf download {name}{at} --include "{inside}config.json" --include "{inside}*.safetensors"'
