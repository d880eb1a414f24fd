"""Any component's state as plain JSON and tensors, exactly, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fluxflow_registry.errors import Problem, RunError

_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


def pack(state: Any, what: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """`state` as (JSON, tensors by key); raises RunError, naming `what`, for anything else in it."""
    tensors: dict[str, torch.Tensor] = {}
    return _pack(state, "", what, tensors), tensors


def _pack(value: Any, path: str, what: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = path or "value"
        while key in tensors:  # `{"a.b": x, "a": {"b": y}}` has one path for two tensors
            key += "'"
        tensors[key] = value.detach()
        return {_TENSOR: key}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not (key is None or isinstance(key, (bool, int, float, str))):
                message = f"the state of {what} has a key of type {type(key).__name__} in `{path}`"
                hint = ("hint", "keys must be strings or numbers")
                raise RunError(Problem(message, None, (hint,), code="wrong-type", subject=path))
        parts = [(key, _pack(part, f"{path}.{key}".lstrip("."), what, tensors)) for key, part in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in parts):
            return dict(parts)
        return {_PAIRS: [[key, part] for key, part in parts]}
    if isinstance(value, (list, tuple)):
        items = [_pack(part, f"{path}.{index}".lstrip("."), what, tensors) for index, part in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    message = f"the state of {what} contains `{path}` of type {type(value).__name__}"
    hint = ("hint", "it must consist of tensors, numbers, strings, lists and mappings")
    raise RunError(Problem(message, None, (hint,), code="wrong-type", subject=path))


def unpack(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(plain, list):
        return [unpack(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if _TENSOR in plain:
        return tensors[plain[_TENSOR]]
    if _TUPLE in plain:
        return tuple(unpack(part, tensors) for part in plain[_TUPLE])
    if _PAIRS in plain:
        return {key: unpack(part, tensors) for key, part in plain[_PAIRS]}
    return {key: unpack(part, tensors) for key, part in plain.items()}
