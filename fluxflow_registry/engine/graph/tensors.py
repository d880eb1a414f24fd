"""Values made of tensors: a tensor, or a (named) tuple, list or dict of such values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `function` applied to each tensor in it; everything else is passed through."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        parts = [map_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [map_tensors(function, part) for part in value] if not _texts(value) else value
    if isinstance(value, dict):
        return {key: map_tensors(function, part) for key, part in value.items()}
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Each tensor in `value`, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)) and not _texts(value):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)


def detach(value: Any) -> Any:
    """`value` without its history."""
    return value.detach() if isinstance(value, Tensor) else map_tensors(Tensor.detach, value)


def describe(value: Any) -> str:
    """The shapes in `value`, for messages: `[64, 8, 8, 8]`, or `(mean [..], logvar [..])`."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        return "(" + ", ".join(f"{name} {describe(part)}" for name, part in fields) + ")"
    if isinstance(value, (tuple, list)) and not _texts(value):
        return "(" + ", ".join(describe(part) for part in value) + ")"
    if isinstance(value, list):
        return f"{len(value)} strings"
    return type(value).__name__


def _texts(value: Any) -> bool:
    """Whether it is a list of strings, which are many and hold no tensor."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)
