"""What all pretrained models share: number formats, frozen parts, and a description in the state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry import Choices, Problem

from .files import PretrainedError

#: The key of a state dict under which the architecture is stored, as JSON.
DESCRIPTION = "_extra_state"

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
            choices = Choices.of(part, known)
            raise PretrainedError(Problem(message, code="unknown-name", subject=part, choices=choices))
        module.get_submodule(part).requires_grad_(False)
