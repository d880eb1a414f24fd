"""A finished model: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state import disk
from fluxflow_registry.state.tensors import write_tensors


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """A model as `config.json` and `model.safetensors`, each replaced whole; raises RunError."""
    working = folder / ".writing"
    try:
        disk.make_folder(folder)
        write_tensors(working, weights)
        working.replace(folder / "model.safetensors")
        disk.replace(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        working.unlink(missing_ok=True)
        raise RunError(
            Problem(f"cannot write the model: {error.strerror}", str(folder), code="unwritable-file")
        ) from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights of a model; raises RunError when either is missing or damaged."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(
            Problem(f"the folder does not contain a model: {one_line(error)}", str(folder), code="missing-weights")
        ) from error
