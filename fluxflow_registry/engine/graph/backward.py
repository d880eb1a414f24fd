"""Gradients of an update: one backward pass for each set of detached values, over a graph that is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.engine.graph.calls import tensors
from fluxflow_registry.engine.graph.values import Instance


@frozen(eq=False)
class StageCut:
    """A value at which the graph is in two: `leaves` begin the later part, `origins` end the earlier one.

    `number` is its place among the cuts, from 1; `stage` is the number of the last cut before it: its origins depend
    on the leaves of no later one.
    """

    name: str
    leaves: tuple[Tensor, ...]
    origins: tuple[Tensor, ...]
    number: int
    stage: int


@frozen
class Term:
    """A weighted loss: the values at which its gradient is detached, and the stage at which its pass begins."""

    value: Tensor
    detached: frozenset[str]
    stage: int


def cut_of(name: str, instance: Instance, number: int, stage: int) -> StageCut:
    """The cut at a value that was computed with one."""
    pairs = [
        (leaf, origin)
        for leaf, origin in zip(tensors(instance.whole), tensors(instance.origin), strict=True)
        if leaf.requires_grad and origin.requires_grad
    ]
    return StageCut(name, tuple(leaf for leaf, _ in pairs), tuple(origin for _, origin in pairs), number, stage)


def backward(terms: Sequence[Term], cuts: Sequence[StageCut], parameters: Sequence[Tensor]) -> None:
    """Add the gradient of every term to `.grad` of the parameters.

    `cuts` stand in the order of computation. Terms that are detached at the same values share a pass. It goes stage
    by stage, the latest first: from the terms that lie beyond a cut to its leaves, and on from the cut together with
    the terms that lie before it; at the group's own detached values it ends. So a detached value keeps the gradient of
    one loss out of what lies before it, no forward is computed twice, and what lies before all cuts is passed once.
    """
    groups = list(dict.fromkeys(term.detached for term in terms))
    for detached in groups:
        own = [term for term in terms if term.detached == detached]
        passed = [cut for cut in cuts if cut.name not in detached]
        for stage in range(max((cut.number for cut in cuts), default=0), -1, -1):
            last = stage == 0 and detached == groups[-1]
            _backward_stage(stage, own, passed, parameters, retain=not last)


def _backward_stage(
    stage: int, terms: Sequence[Term], passed: Sequence[StageCut], parameters: Sequence[Tensor], retain: bool
) -> None:
    """Go back from the terms and the cuts of one stage, as far as the cuts before it."""
    roots: list[Tensor] = [term.value for term in terms if term.stage == stage]
    gradients: list[Tensor | None] = [None] * len(roots)
    for cut in passed:
        if cut.stage != stage:
            continue
        for leaf, origin in zip(cut.leaves, cut.origins, strict=True):
            if leaf.grad is not None:
                roots.append(origin)
                gradients.append(leaf.grad)
                leaf.grad = None
    if roots:
        leaves = [leaf for cut in passed if cut.number <= stage for leaf in cut.leaves]
        torch.autograd.backward(roots, gradients, inputs=[*parameters, *leaves], retain_graph=retain)


def gradient_at(term: Term, cuts: Sequence[StageCut], parameter: Tensor) -> Tensor | None:
    """The gradient of one term at one parameter, across cuts but not across the term's own detached values.

    The graph is kept, and no `.grad` is touched. None where the term does not reach the parameter.
    """
    passed = [cut for cut in cuts if cut.name not in term.detached and cut.number <= term.stage]
    arrived: dict[Tensor, Tensor] = {}
    found: Tensor | None = None
    for stage in range(term.stage, -1, -1):
        pairs = [
            (origin, arrived[leaf])
            for cut in passed
            if cut.stage == stage
            for leaf, origin in zip(cut.leaves, cut.origins, strict=True)
            if leaf in arrived
        ]
        roots: list[Tensor] = [origin for origin, _ in pairs]
        gradients: list[Tensor | None] = [gradient for _, gradient in pairs]
        if stage == term.stage:
            roots, gradients = [term.value, *roots], [None, *gradients]
        if not roots:
            continue
        leaves = [leaf for cut in passed if cut.number <= stage for leaf in cut.leaves]
        at, *beyond = torch.autograd.grad(roots, [parameter, *leaves], gradients, retain_graph=True, allow_unused=True)
        found = at if found is None else found if at is None else found + at
        for leaf, gradient in zip(leaves, beyond, strict=True):
            if gradient is not None:
                arrived[leaf] = arrived[leaf] + gradient if leaf in arrived else gradient
    return found
