"""Activation checkpointing: blocks keep only their inputs, and are computed again in the backward pass."""

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
    """The repeated blocks: the outermost children of a ModuleList, ModuleDict or Sequential that have layers.

    A Sequential of blocks is searched for them; a Sequential of layers is a block itself.
    """
    return list(dict.fromkeys(_search(model, in_container=False)))


def _search(module: nn.Module, in_container: bool) -> Iterator[nn.Module]:
    container = isinstance(module, _CONTAINERS)
    if in_container and _has_layers(module) and not (container and _has_blocks(module)):
        yield module
        return
    for child in _layers(module):
        yield from _search(child, in_container=container)


def _layers(module: nn.Module) -> list[nn.Module]:
    """The module's children without those that compute its own weights, such as spectral normalization."""
    return [child for name, child in module.named_children() if name != "parametrizations"]


def _has_layers(module: nn.Module) -> bool:
    return bool(_layers(module)) and any(True for _ in module.parameters())


def _has_blocks(container: nn.Module) -> bool:
    return not isinstance(container, nn.Sequential) or any(map(_has_layers, container.children()))


def checkpoint_blocks(model: nn.Module) -> None:
    """Compute every block of the model twice instead of keeping its intermediate values (Chen et al., 2016).

    A block becomes an instance of a subclass of its class: names in the state dict do not change, and a copy of
    the model is checkpointed too. Without gradients nothing changes.
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
    return nullcontext(), _EarlierBuffers(block)


class _EarlierBuffers:
    """Gives a block the buffers that it had before its forward, and afterwards its present ones back.

    A block whose buffers change with each call (the averages of batch normalization, the vectors of spectral
    normalization) changes them once in a forward, and computes the same values the second time.
    """

    def __init__(self, block: nn.Module) -> None:
        self.places = [(m._buffers, name) for m in block.modules() for name in m._buffers]
        self.earlier = [_copy(buffers[name]) for buffers, name in self.places]
        self.present: list[Tensor | None] = []

    def __enter__(self) -> None:
        self.present = [buffers[name] for buffers, name in self.places]
        self._put([_copy(buffer) for buffer in self.earlier])

    def __exit__(self, *_: object) -> None:
        self._put(self.present)

    def _put(self, tensors: list[Tensor | None]) -> None:
        for (buffers, name), tensor in zip(self.places, tensors, strict=True):
            buffers[name] = tensor


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()
