"""What a component keeps in its attributes, as strings that are equal for equal content in every process."""

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

#: How deep attributes of attributes are described.
DEPTH = 5


def fingerprint(instance: Any) -> dict[str, str]:
    """Each attribute of a component, as a string."""
    return {name: describe(value) for name, value in sorted(_attributes(instance))}


def describe(value: Any, depth: int = DEPTH) -> str:
    """The content of a value without addresses; a list is described as a tuple, because JSON has only one of them.

    A value without attributes is described by its type, and what lies deeper than `depth` by `...`.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath)):
        return repr(value)
    if isinstance(value, (Enum, type)) or hasattr(value, "__qualname__"):
        return str(getattr(value, "__qualname__", value))
    if isinstance(value, Tensor):
        return digest_tensors(value)
    if isinstance(value, torch.Generator):
        return digest_tensors(value.get_state())
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(sorted(f"{describe(k, depth - 1)}: {describe(v, depth - 1)}" for k, v in value.items()))
            + "}"
        )
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(describe(each, depth - 1) for each in value)) + "}"
    if isinstance(value, (list, tuple, deque)):
        return "(" + ", ".join(describe(each, depth - 1) for each in value) + ")"
    parts = (f"{attribute}={describe(each, depth - 1)}" for attribute, each in sorted(_attributes(value)))
    return f"{type(value).__qualname__}({', '.join(parts)})"


def _attributes(instance: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an instance has, in its dictionary and in the slots of its classes."""
    attributes: dict[str, Any] = {}
    for cls in type(instance).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__weakref__", "__dict__") and hasattr(instance, slot):
                attributes[slot] = getattr(instance, slot)
    yield from {**attributes, **getattr(instance, "__dict__", {})}.items()


def digest_tensors(*tensors: Tensor) -> str:
    """A digest of the types, shapes and bits of tensors."""
    return digest_bytes(*map(_bytes, tensors))


def digest_bytes(*parts: bytes) -> str:
    """A digest of bytes."""
    combined = blake2b(digest_size=16)
    for part in parts:
        combined.update(part)
    return combined.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype}{list(plain.shape)}".encode()
    return head + (plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
