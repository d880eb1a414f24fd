"""Gradients of an update: one walk back for each set of cuts, over a graph that was computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.engine.graph.tensors import tensors
from fluxflow_registry.engine.graph.values import Instance


@frozen(eq=False)
class Split:
    """A value at which the graph is in two: `leaves` begin the later part, `origins` end the earlier.

    `number` is its place among the splits, from 1; `stage` is the number of the last split before
    it: its origins depend on the leaves of no later one.
    """

    name: str
    leaves: tuple[Tensor, ...]
    origins: tuple[Tensor, ...]
    number: int
    stage: int


@frozen
class Term:
    """A weighted loss: the values at which its gradient is cut, and the stage at which its walk begins."""

    value: Tensor
    cuts: frozenset[str]
    stage: int


def split_of(name: str, instance: Instance, number: int, stage: int) -> Split:
    """The split at a value that was computed with one."""
    pairs = [
        (leaf, origin)
        for leaf, origin in zip(tensors(instance.whole), tensors(instance.origin), strict=True)
        if leaf.requires_grad and origin.requires_grad
    ]
    return Split(name, tuple(leaf for leaf, _ in pairs), tuple(origin for _, origin in pairs), number, stage)


def walk_back(terms: Sequence[Term], splits: Sequence[Split], parameters: Sequence[Tensor]) -> None:
    """Add the gradient of every term to `.grad` of the parameters.

    `splits` stand in the order of computation. Terms that share their cuts share a walk. It goes stage by stage, the
    latest first: from the terms that lie beyond a split to its leaves, and on from the split
    together with the terms that lie before it; at the group's own cuts it does not go on. So a cut
    keeps the gradient of one loss out of what lies before it, no forward is computed twice, and
    what lies before all cuts is walked once.
    """
    groups = list(dict.fromkeys(term.cuts for term in terms))
    for cuts in groups:
        mine = [term for term in terms if term.cuts == cuts]
        going_on = [split for split in splits if split.name not in cuts]
        for stage in range(max((split.number for split in splits), default=0), -1, -1):
            last = stage == 0 and cuts == groups[-1]
            _walk_stage(stage, mine, going_on, parameters, retain=not last)


def _walk_stage(
    stage: int,
    terms: Sequence[Term],
    going_on: Sequence[Split],
    parameters: Sequence[Tensor],
    retain: bool,
) -> None:
    """Walk back from the terms and the splits of one stage, as far as the splits before it."""
    roots: list[Tensor] = [term.value for term in terms if term.stage == stage]
    gradients: list[Tensor | None] = [None] * len(roots)
    for split in going_on:
        if split.stage != stage:
            continue
        for leaf, origin in zip(split.leaves, split.origins, strict=True):
            if leaf.grad is not None:
                roots.append(origin)
                gradients.append(leaf.grad)
                leaf.grad = None
    if roots:
        leaves = [leaf for split in going_on if split.number <= stage for leaf in split.leaves]
        torch.autograd.backward(roots, gradients, inputs=[*parameters, *leaves], retain_graph=retain)


def gradient_at(term: Term, splits: Sequence[Split], parameter: Tensor) -> Tensor | None:
    """The gradient of one term at one parameter, across splits but not across the term's own cuts.

    The graph stands afterwards, and no `.grad` is touched. None where the term does not reach the parameter.
    """
    going_on = [split for split in splits if split.name not in term.cuts and split.number <= term.stage]
    arrived: dict[Tensor, Tensor] = {}
    found: Tensor | None = None
    for stage in range(term.stage, -1, -1):
        pairs = [
            (origin, arrived[leaf])
            for split in going_on
            if split.stage == stage
            for leaf, origin in zip(split.leaves, split.origins, strict=True)
            if leaf in arrived
        ]
        roots: list[Tensor] = [origin for origin, _ in pairs]
        gradients: list[Tensor | None] = [gradient for _, gradient in pairs]
        if stage == term.stage:
            roots, gradients = [term.value, *roots], [None, *gradients]
        if not roots:
            continue
        leaves = [leaf for split in going_on if split.number <= stage for leaf in split.leaves]
        at, *beyond = torch.autograd.grad(roots, [parameter, *leaves], gradients, retain_graph=True, allow_unused=True)
        found = at if found is None else found if at is None else found + at
        for leaf, gradient in zip(leaves, beyond, strict=True):
            if gradient is not None:
                arrived[leaf] = arrived[leaf] + gradient if leaf in arrived else gradient
    return found
