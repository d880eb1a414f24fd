"""The weights of an update's losses on a batch: the recipe's, the warm-up, and the balancer's factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from fluxflow_registry.engine.graph.backward import StageCut
from fluxflow_registry.engine.graph.build import build
from fluxflow_registry.engine.graph.loss_gradients import LossGradients
from fluxflow_registry.engine.graph.losses import LiveLoss
from fluxflow_registry.engine.graph.values import raised_at
from fluxflow_registry.engine.training.late_start import Starts
from fluxflow_registry.errors import FluxflowError, Problem, TrainingError, one_line
from fluxflow_registry.plan.updates import UpdatePlan


class LossWeights:
    """Weighs the losses of an update; `weigher` is what its balancer returns, or None."""

    def __init__(self, update: UpdatePlan, parameters: Mapping[str, Tensor], starts: Starts) -> None:
        self.update = update
        self.starts = starts
        self.gradients = LossGradients(parameters, update)
        self.weigher = build_weigher(update, self.gradients)

    def changes(self, loss: LiveLoss) -> bool:
        """Whether the weight of a loss changes from batch to batch, so that it is logged."""
        return loss.plan.warmup > 0 or self.weigher is not None

    def of(
        self,
        losses: Mapping[str, Tensor],
        active: Sequence[LiveLoss],
        cuts: Sequence[StageCut],
        step_batch: int,
        scaler: torch.amp.GradScaler | None,
    ) -> Mapping[str, float | Tensor]:
        """The weight of each active loss on this batch."""
        own = {loss.label: loss.plan.weight_at(step_batch - (self.starts.since(loss.label) or 0)) for loss in active}
        if self.weigher is None:
            return own
        self.gradients.use({loss.label: loss.term(losses[loss.label]) for loss in active}, cuts, own, scaler)
        factors = self._factors({label: loss.detach() for label, loss in losses.items()})
        self.gradients.release()
        return {label: weight * factors.get(label, 1.0) for label, weight in own.items()}

    def _factors(self, losses: Mapping[str, Tensor]) -> Mapping[str, float | Tensor]:
        """What the balancer returns; a failure names it, its update and its place in the recipe."""
        balancer = self.update.balancer
        assert balancer is not None
        who = f"balancer `{balancer.name}` of update `{self.update.name}` failed"
        try:
            factors: Mapping[str, float | Tensor] = self.weigher(losses)
        except torch.OutOfMemoryError:
            raise
        except FluxflowError as error:
            problems = [
                evolve(each, message=f"{who}: {each.message}", where=each.where or balancer.where)
                for each in error.problems
            ]
            raise TrainingError(problems) from error
        except Exception as error:
            notes = (("defined in", balancer.definition), *raised_at(error))
            message = f"{who}: {one_line(error)}"
            raise TrainingError(Problem(message, balancer.where, notes, code="component-failed")) from error
        return factors


def build_weigher(update: UpdatePlan, gradients: LossGradients) -> Any:
    """What the balancer of an update returns: a weigher of its losses; None without a balancer."""
    if update.balancer is None:
        return None
    return build(update.balancer, losses=list(update.losses), gradients=gradients)
