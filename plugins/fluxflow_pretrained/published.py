"""What all pretrained models share: where their files are, number formats, frozen parts, and their state dict.

Nothing is ever downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from fluxflow_registry import FluxflowError

#: The key of a state dict under which the architecture is stored, as JSON.
DESCRIPTION = "_extra_state"

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PretrainedError(FluxflowError):
    """A published model cannot be used: its library or its files are missing, or they do not fit."""


def missing_library(library: str, extra: str) -> PretrainedError:
    """The error for a library that is not installed."""
    install = ("command", f"pip install 'fluxflow-registry[{extra}]'")
    message = f"the library {library}, which `pretrained_*` models need, is not installed"
    return PretrainedError(message, None, (install,), code="missing-dependency", subject=library)


@frozen
class Published:
    """A published model by its folder or its name on the hub, and the patterns of the files that it consists of."""

    name: str
    revision: str | None
    patterns: tuple[str, ...]
    subfolder: str | None = None

    def folder(self) -> Path:
        """The folder of the files; raises PretrainedError, with the command that fetches them, if there is none."""
        from huggingface_hub import constants, try_to_load_from_cache

        path = Path(self.name).expanduser()
        if path.is_dir():
            return path / (self.subfolder or "")
        if path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1:
            raise PretrainedError(f"folder `{path}` does not exist", code="missing-file", subject=self.name)
        inside = f"{self.subfolder}/" if self.subfolder else ""
        try:
            config = try_to_load_from_cache(self.name, f"{inside}config.json", revision=self.revision)
        except ValueError:
            message = f"`{self.name}` is neither a folder nor a valid name on the Hugging Face hub"
            raise PretrainedError(message, code="missing-weights", subject=self.name) from None
        if not isinstance(config, str):
            what = f"`{self.name}`" + (f", subfolder `{self.subfolder}`," if self.subfolder else "")
            message = f"{what} is neither a folder nor in the Hugging Face cache"
            hint = "fetch the files where there is a network (training downloads nothing), or set HF_HOME"
            notes = (("status", f"the cache is {constants.HF_HUB_CACHE}"), ("hint", hint), ("command", self._fetch()))
            raise PretrainedError(message, None, notes, code="missing-weights", subject=self.name)
        return Path(config).parent

    def without_safetensors(self, folder: Path, wanted: str) -> PretrainedError:
        """The error for a folder that has no weights of the safe format."""
        why = ("cause", "weights in torch's own format can contain code, so they are not read")
        fetch = [] if Path(self.name).expanduser().is_dir() else [("command", self._fetch())]
        message = f"folder `{folder}` contains no {wanted}"
        return PretrainedError(message, None, (why, *fetch), code="missing-weights", subject=self.name)

    def _fetch(self) -> str:
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.name}{revision} " + " ".join(f'--include "{each}"' for each in self.patterns)


def to_tensor(description: Mapping[str, Any]) -> Tensor:
    """A description as bytes, which safetensors can store."""
    return torch.frombuffer(bytearray(json.dumps(description).encode()), dtype=torch.uint8)


def from_tensor(state: Tensor) -> dict[str, Any]:
    """The description that a state dict contains."""
    description: dict[str, Any] = json.loads(bytes(state.cpu().numpy()))
    return description


def freeze(module: nn.Module, parts: Sequence[str], component: str) -> None:
    """Freeze the named submodules; raises PretrainedError for a name that does not exist."""
    known = [name for name, _ in module.named_modules() if name]
    for part in parts:
        if part not in known:
            message = f"`frozen` of model `{component}` names `{part}`, which the network does not have"
            raise PretrainedError(message, code="unknown-name", subject=part, choices=known)
        module.get_submodule(part).requires_grad_(False)
