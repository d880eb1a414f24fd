"""An update on a batch: values, losses, gradients, one step of its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.contracts import Stateful
from fluxflow_registry.engine.graph.backward import Term
from fluxflow_registry.engine.graph.losses import LiveLoss, LiveLosses
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.engine.models.weights import trained_parameters
from fluxflow_registry.engine.training.late_start import Extent, Starts
from fluxflow_registry.engine.training.loss_weights import LossWeights
from fluxflow_registry.engine.training.not_finite import Evidence, evidence_of
from fluxflow_registry.engine.training.optimizer_step import OptimizerStep, Outcome
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import UpdatePlan

#: Counters of an update that are kept in checkpoints.
_COUNTS = ("skipped_in_a_row", "skipping_since", "steps", "skips")

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_of(device: torch.device, precision: str) -> Callable[[], Any]:
    """A factory of the context in which values are computed at this precision."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=_HALF[precision])


# More than a dozen members: its counters are kept in checkpoints, beside its parts.
class LiveUpdate:
    """One update of a live step: it runs once on every batch."""

    def __init__(
        self, step: StepPlan, plan: UpdatePlan, values: Values, models: Mapping[str, nn.Module], extent: Extent
    ) -> None:
        self.plan = plan
        self.parameters = trained_parameters(models, plan.trains)
        self.losses = LiveLosses(step, plan, values, as_float=step.settings.precision != "fp32")
        self.starts = Starts(plan)
        fp16 = values.draws.device.type if step.settings.precision == "fp16" else None
        self.optimizer = OptimizerStep(plan, list(self.parameters.values()), fp16, extent, self.starts)
        self.weights = LossWeights(plan, self.parameters, self.starts)
        #: Batches skipped in a row, and the step's batch at which that began.
        self.skipped_in_a_row = self.skipping_since = 0
        #: How often the optimizer has stepped, and how often a batch was skipped.
        self.steps = self.skips = 0
        #: What was not finite in the first skipped batch, until the next one.
        self.evidence: Evidence | None = None
        self.outcome: Outcome = "waited"
        #: For each batch of the open window: its losses.
        self._window: list[dict[str, Tensor]] = []
        #: Sum of the losses whose gradients wait for the optimizer; None when there are none.
        self._total: Tensor | None = None

    @property
    def name(self) -> str:
        """The name of the update in its step."""
        return self.plan.name

    def run(self, step_batch: int, closing: bool, window: int = 1) -> dict[str, Tensor | float]:
        """Train on the batch in the values; the optimizer steps where a window is `closing`.

        `window` is the number of batches whose gradients are averaged. Returns the metrics of the batch, and sets
        `outcome`. Raises nothing for a loss or a gradient that is not finite: then the optimizer, its
        scheduler and the parameters stay as they are.
        """
        metrics: dict[str, Tensor | float] = {}
        self.outcome = "waited"
        active = [loss for loss in self.losses.all if self.starts.counts(loss.label, step_batch)]
        losses = self._add_gradients(active, step_batch, window, metrics) if active else {}
        self._window.append({label: loss.detach() for label, loss in losses.items()})
        if closing and self._total is not None:
            norm = metrics[f"{self.name}/grad_norm"] = self.optimizer.gradient_norm()
            self._close(self._total, norm, step_batch)
            metrics[f"{self.name}/lr"] = self.optimizer.lr
        if closing:
            self._total, self._window = None, []
        # The plan relies on it on every batch, whether the optimizer has stepped or only will.
        self.losses.values.forget(self.plan.stale)
        return metrics

    def _add_gradients(
        self, active: Sequence[LiveLoss], step_batch: int, window: int, metrics: dict[str, Tensor | float]
    ) -> dict[str, Tensor]:
        """Compute the active losses and add their gradients."""
        self.losses.compute_values(active)
        losses = {loss.label: self.losses.compute(loss) for loss in active}
        cuts = [] if self.losses.alone else self.losses.cuts()
        weights = self.weights.of(losses, active, cuts, step_batch, self.optimizer.scaler)
        total, terms = _weighted(active, losses, weights)
        if self.losses.values.watch is not None:
            self.losses.values.watch("total", self.name, total)
        self.optimizer.backward(terms, cuts, window, self.losses.alone)
        self._total = total if self._total is None else self._total + total
        metrics[f"{self.name}_loss"] = total
        metrics.update({f"{self.name}/{label}": loss.detach() for label, loss in losses.items()})
        changing = [loss.label for loss in active if self.weights.changes(loss)]
        metrics.update({f"{self.name}/{label}/weight": weights[label] for label in changing})
        return losses

    def _close(self, total: Tensor, norm: Tensor, step_batch: int) -> None:
        """At a window's end: step, or skip the window because something is not finite."""
        outcome = self.optimizer.outcome(total, norm)
        if outcome == "stepped":
            self.steps += 1
            self.skipped_in_a_row = 0
        elif outcome == "skipped":
            if self.skipped_in_a_row == 0:
                self.skipping_since = step_batch
            if self.skipped_in_a_row == 0 or self.evidence is None:
                self.evidence = evidence_of(self.losses.values, self._window, self.parameters)
            self.skips += 1
            self.skipped_in_a_row += 1
        self.optimizer.close(outcome, norm)
        self.outcome = outcome

    def has_started(self, step_batch: int) -> bool:
        """Whether some loss was computed on one of the first `step_batch` batches of the step."""
        return self.starts.first is not None and self.starts.first < step_batch

    def end_epoch(self, metrics: Mapping[str, float], step_batch: int) -> None:
        """Advance a scheduler that counts epochs; `metrics` are the epoch's means and evaluations."""
        if self.has_started(step_batch):
            self.optimizer.end_epoch(metrics)

    def meet(self, name: str, step_batch: int) -> None:
        """Start a loss, or the update itself, whose condition is met."""
        self.starts.meet(name, step_batch)
        self.optimizer.schedule()

    def state(self) -> dict[str, Any]:
        """All that is not a function of the position."""
        state = self.optimizer.state()
        if isinstance(self.weights.weigher, Stateful):
            state["weigher"] = self.weights.weigher.state_dict()
        if self.starts.conditions:
            state["starts"] = dict(self.starts.met)
        return {**state, **{name: getattr(self, name) for name in _COUNTS}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.load_moving(state)
        for name in _COUNTS:
            setattr(self, name, int(state[name]))

    def load_moving(self, state: Mapping[str, Any]) -> None:
        """Restore what has started, and the state of the optimizer and the balancer, but no counter."""
        self.starts.load(state.get("starts", {}))
        self.optimizer.schedule()
        self.optimizer.load(state)
        if "weigher" in state:
            self.weights.weigher.load_state_dict(state["weigher"])


def _weighted(
    active: Sequence[LiveLoss], losses: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]
) -> tuple[Tensor, list[Term]]:
    """The weighted sum, and its parts by what they are detached from and by where their backward pass begins."""
    sums: dict[tuple[frozenset[str], int], Tensor] = {}
    for loss in active:
        weighted = losses[loss.label] * weights[loss.label]
        key = loss.plan.detached, loss.stage
        sums[key] = sums[key] + weighted if key in sums else weighted
    terms = [Term(value, *key) for key, value in sums.items()]
    first, *others = (term.value.detach() for term in terms)
    return sum(others, first), terms
