"""Activation checkpointing: blocks that keep their inputs alone, and are computed again on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks: children of a ModuleList, ModuleDict or Sequential that have layers of their own.

    The outermost ones; a Sequential of blocks is looked into, one of mere layers is a block.
    """
    return list(dict.fromkeys(_found(model, inside=False)))


def _found(module: nn.Module, inside: bool) -> Iterator[nn.Module]:
    container = isinstance(module, _CONTAINERS)
    if inside and _composite(module) and not (container and _holds_blocks(module)):
        yield module
        return
    for child in _layers(module):
        yield from _found(child, inside=container)


def _layers(module: nn.Module) -> list[nn.Module]:
    """The module's children but for those that make its own weights (spectral normalisation, for one)."""
    return [child for name, child in module.named_children() if name != "parametrizations"]


def _composite(module: nn.Module) -> bool:
    return bool(_layers(module)) and any(True for _ in module.parameters())


def _holds_blocks(container: nn.Module) -> bool:
    return not isinstance(container, nn.Sequential) or any(map(_composite, container.children()))


def checkpoint_blocks(model: nn.Module) -> None:
    """Let every block of the model be computed twice instead of being remembered (Chen et al., 2016).

    A block becomes an instance of a subclass of its class: names in the state dict stay, and a copy of the
    model is a copy in this respect too. Without gradient nothing changes.
    """
    for block in blocks_of(model):
        kind: Any = type(block)
        block.__class__ = _checkpointed(kind)


@cache
def _checkpointed(cls: Any) -> Any:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner = partial(cls.forward, self)
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        if next(self.buffers(), None) is None:
            return checkpoint(inner, *args, use_reentrant=False, **kwargs)
        contexts = partial(_contexts, self)
        return checkpoint(inner, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__})


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _AsBefore(block)


class _AsBefore:
    """Gives a block the buffers that it had before its forward, and then those back that it has now.

    What counts its calls (the averages of batch normalisation, the vectors of spectral normalisation) counts
    one forward once, and computes the same the second time.
    """

    def __init__(self, block: nn.Module) -> None:
        self.places = [(m._buffers, name) for m in block.modules() for name in m._buffers]
        self.before = [_copy(buffers[name]) for buffers, name in self.places]
        self.now: list[Tensor | None] = []

    def __enter__(self) -> None:
        self.now = [buffers[name] for buffers, name in self.places]
        self._put([_copy(buffer) for buffer in self.before])

    def __exit__(self, *_: object) -> None:
        self._put(self.now)

    def _put(self, tensors: list[Tensor | None]) -> None:
        for (buffers, name), tensor in zip(self.places, tensors, strict=True):
            buffers[name] = tensor


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()
