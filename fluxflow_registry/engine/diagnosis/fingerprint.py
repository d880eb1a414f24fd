"""What a component keeps within itself, in words that are the same for the same content in every process."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

#: Attributes within attributes that are looked into.
DEPTH = 5


def inside(instance: Any) -> dict[str, str]:
    """Each attribute of a component, as it is stated where the recipe says it and as it has become since."""
    return {name: told(value) for name, value in sorted(_attributes(instance))}


def told(value: Any, depth: int = DEPTH) -> str:
    """The content of a value without addresses; a list is told as a tuple is, for JSON knows but one of them.

    What cannot be looked into is told by its type alone, and what lies deeper than `depth` not at all.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath)):
        return repr(value)
    if isinstance(value, (Enum, type)) or hasattr(value, "__qualname__"):
        return str(getattr(value, "__qualname__", value))
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, torch.Generator):
        return _digest(value.get_state())
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{told(k, depth - 1)}: {told(v, depth - 1)}" for k, v in value.items())) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(told(each, depth - 1) for each in value)) + "}"
    if isinstance(value, (list, tuple, deque)):
        return "(" + ", ".join(told(each, depth - 1) for each in value) + ")"
    parts = (f"{attribute}={told(each, depth - 1)}" for attribute, each in sorted(_attributes(value)))
    return f"{type(value).__qualname__}({', '.join(parts)})"


def _attributes(instance: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an instance has, in its dictionary and in the slots of its classes."""
    found: dict[str, Any] = {}
    for each in type(instance).__mro__:
        slots = each.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__weakref__", "__dict__") and hasattr(instance, slot):
                found[slot] = getattr(instance, slot)
    yield from {**found, **getattr(instance, "__dict__", {})}.items()


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{plain.dtype}{list(plain.shape)}{blake2b(content, digest_size=16).hexdigest()}"
