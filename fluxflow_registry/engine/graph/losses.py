"""The losses of an update on one batch, and their gradients: one backward pass for each set of detached values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.engine.graph.calls import PASSED_THROUGH, Binding, bind, describe, failed, tensors, wrong_return
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.engine.models.compiling import uncompiled
from fluxflow_registry.errors import TrainingError
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import LossPlan, UpdatePlan


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


@frozen(eq=False)
class LiveLoss:
    """A loss that is being computed: its plan, how it is called, and at which stage its backward pass begins."""

    plan: LossPlan
    binding: Binding
    stage: int

    @property
    def label(self) -> str:
        """The name of the loss in its update."""
        return self.plan.label

    def term(self, value: Tensor) -> Term:
        """Its value as a root of the backward pass."""
        return Term(value, self.plan.detached, self.stage)


class LiveLosses:
    """The losses of an update, computed from the values of the batch at hand."""

    def __init__(self, step: StepPlan, update: UpdatePlan, values: Values, as_float: bool = False) -> None:
        self.update = update
        self.values = values
        #: Whether losses get their values in single precision, whatever the values were computed in.
        self.as_float = as_float
        detached = [name for name in update.order if name in step.detached]
        #: For each detached value of the update, in order of computation, its stage: how many come before it.
        self.stages = {name: _stage(detached, step.values[name].upstream) for name in detached}
        self.all = []
        for label, loss in update.losses.items():
            binding = bind(f"{update.name}/{label}", loss.component, values.plan)
            self.all.append(LiveLoss(loss, binding, _stage(self.stages, loss.closure)))
        trained = frozenset().union(*(loss.closure for loss in update.losses.values())) & step.trains
        #: Whether every trained model upstream is this update's own, so that no gradient can go astray.
        self.alone = trained <= frozenset(update.trains) and not self.stages
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}

    def compute_values(self, active: Sequence[LiveLoss]) -> None:
        """Compute the values that these losses need: a lazy loss costs nothing on the batches between."""
        key = tuple(loss.label for loss in active)
        if key not in self._orders:
            needed = frozenset().union(*(loss.plan.closure for loss in active))
            self._orders[key] = tuple(name for name in self.update.order if name in needed)
        self.values.compute(self._orders[key], self.update.carries)

    def compute(self, loss: LiveLoss) -> Tensor:
        """The value of one loss; raises TrainingError where it fails or does not return a 0-d tensor with gradient."""
        arguments = self.values.arguments(loss.binding, frozenset(self.update.trains), self.as_float)
        # A loss that calls a model itself may differentiate it twice, as a gradient penalty does.
        called = [self.values.models[model] for _, model in loss.binding.models]
        try:
            with uncompiled(called):
                result: Tensor = loss.binding.call(**arguments)
        except PASSED_THROUGH:
            raise
        except Exception as error:
            who = self.update.title(loss.label)
            raise failed(who, loss.binding, arguments, error, loss.plan.component.where) from error
        if self.values.watch is not None:
            self.values.watch("loss", loss.binding.name, result)
        if not isinstance(result, Tensor) or result.ndim:
            returned = describe(result) if isinstance(result, Tensor) else type(result).__name__
            raise self._wrong(loss, arguments, f"returned {returned}; a loss must be a 0-d tensor")
        if result.is_complex():
            raise self._wrong(loss, arguments, "returned a complex number; a loss must be real")
        if not result.requires_grad:
            raise self._wrong(loss, arguments, "has no gradient: it detaches its inputs, or does not use them")
        return result

    def cuts(self) -> list[StageCut]:
        """The detached values at which the graph of this batch is in two, in order of computation."""
        found = []
        for number, (name, stage) in enumerate(self.stages.items(), 1):
            kept = self.values.kept.get(name)
            if kept is not None and kept.origin is not None:
                both = zip(tensors(kept.whole), tensors(kept.origin), strict=True)
                pairs = [(leaf, origin) for leaf, origin in both if leaf.requires_grad and origin.requires_grad]
                leaves, origins = tuple(leaf for leaf, _ in pairs), tuple(origin for _, origin in pairs)
                found.append(StageCut(name, leaves, origins, number, stage))
        return found

    def _wrong(self, loss: LiveLoss, arguments: Mapping[str, Any], what: str) -> TrainingError:
        return wrong_return(f"{self.update.title(loss.label)} {what}", loss.binding, arguments, loss.label)


def _stage(cuts: Iterable[str], closure: frozenset[str]) -> int:
    """The stage of what depends on `closure`: the number of the last cut in it, 0 for none."""
    return max((number for number, name in enumerate(cuts, 1) if name in closure), default=0)


def backward(terms: Sequence[Term], cuts: Sequence[StageCut], parameters: Sequence[Tensor]) -> None:
    """Add the gradient of every term to `.grad` of the parameters.

    `cuts` are in the order of computation. Terms that are detached at the same values share a pass. A pass processes
    the stages from last to first: in each stage gradients flow from its terms, and from its cuts whose leaves have
    received gradients, back to the parameters and to the leaves of earlier cuts. It does not continue at the values
    at which its terms are detached. No forward is computed twice, and what precedes all cuts is passed once.
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
