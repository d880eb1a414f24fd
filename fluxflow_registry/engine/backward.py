"""Gradients of an update: one walk back for each set of cuts, over a graph that was computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.engine.tensors import tensors
from fluxflow_registry.engine.values import Instance


@frozen
class Split:
    """A value at which the graph is in two: `leaves` begin the later part, `origins` end the earlier."""

    name: str
    leaves: tuple[Tensor, ...]
    origins: tuple[Tensor, ...]


def split_of(name: str, instance: Instance) -> Split:
    """The split at a value that was computed with one."""
    pairs = [
        (leaf, origin)
        for leaf, origin in zip(tensors(instance.whole), tensors(instance.origin), strict=True)
        if leaf.requires_grad and origin.requires_grad
    ]
    return Split(name, tuple(leaf for leaf, _ in pairs), tuple(origin for _, origin in pairs))


def walk_back(
    parts: Sequence[tuple[Tensor, frozenset[str]]],
    splits: Sequence[Split],
    parameters: Sequence[Tensor],
) -> None:
    """Add the gradient of each part (a total and its cuts) to `.grad` of the parameters.

    `splits` stand in the order in which their values were computed. A part's walk stops at the
    leaves of every split; from those that are not among its cuts it goes on. So a cut keeps the
    gradient of one loss out of what lies before it, while no forward is computed twice.
    """
    for index, (total, cuts) in enumerate(parts):
        more = index + 1 < len(parts)
        going_on = [split for split in splits if split.name not in cuts]
        leaves = [leaf for split in going_on for leaf in split.leaves]
        torch.autograd.backward(total, inputs=[*parameters, *leaves], retain_graph=more)
        for split in reversed(going_on):
            _go_on(split, going_on, parameters, more)


def _go_on(split: Split, splits: Sequence[Split], parameters: Sequence[Tensor], more: bool) -> None:
    """Walk on from a split, back to the parameters and to the leaves of earlier splits."""
    arrived = [
        (origin, leaf.grad) for leaf, origin in zip(split.leaves, split.origins, strict=True) if leaf.grad is not None
    ]
    for leaf in split.leaves:
        leaf.grad = None
    if arrived:
        origins, gradients = zip(*arrived, strict=True)
        earlier = [leaf for other in splits[: splits.index(split)] for leaf in other.leaves]
        torch.autograd.backward(origins, gradients, inputs=[*parameters, *earlier], retain_graph=more)
