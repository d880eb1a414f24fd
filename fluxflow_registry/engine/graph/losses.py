"""The losses of an update on one batch: computed the same way in training and in the proof of shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.engine.graph.backward import StageCut, Term, cut_of
from fluxflow_registry.engine.graph.calls import Binding, bind, describe, failed, wrong_return
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.errors import FluxflowError, TrainingError
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import LossPlan, UpdatePlan


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
        #: For each detached value of the update, in order of computation, its stage: how many come before it.
        detached = [name for name in update.order if name in step.detached]
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
        try:
            result: Tensor = loss.binding.call(**arguments)
        except (torch.OutOfMemoryError, FluxflowError):
            raise
        except Exception as error:
            who = self.update.title(loss.label)
            raise failed(who, loss.binding, arguments, error, loss.plan.component.where) from error
        if self.values.watch is not None:
            self.values.watch("loss", loss.binding.name, result)
        if not isinstance(result, Tensor) or result.ndim:
            returned = describe(result) if isinstance(result, Tensor) else type(result).__name__
            raise self._wrong(loss, arguments, f"returned {returned}; a loss must be a 0-d tensor")
        if not result.requires_grad:
            raise self._wrong(loss, arguments, "has no gradient: it detaches its inputs, or does not use them")
        return result

    def cuts(self) -> list[StageCut]:
        """The detached values at which the graph of this batch is in two, in order of computation."""
        return [
            cut_of(name, kept, number, stage)
            for number, (name, stage) in enumerate(self.stages.items(), 1)
            if (kept := self.values.kept.get(name)) is not None and kept.origin is not None
        ]

    def _wrong(self, loss: LiveLoss, arguments: Mapping[str, Any], what: str) -> TrainingError:
        return wrong_return(f"{self.update.title(loss.label)} {what}", loss.binding, arguments, loss.label)


def _stage(cuts: Iterable[str], closure: frozenset[str]) -> int:
    """The stage of what depends on `closure`: the number of the last cut in it, 0 for none."""
    return max((number for number, name in enumerate(cuts, 1) if name in closure), default=0)
