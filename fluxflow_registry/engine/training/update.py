"""An update on a batch: values, losses, gradients, and one step of its optimizer, clipped, scheduled or skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from attrs import evolve
from torch import Tensor, nn

from fluxflow_registry.contracts import Position, Stateful
from fluxflow_registry.engine.graph.losses import LiveLoss, LiveLosses, StageCut, Term, backward
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.engine.models.build import trained_parameters
from fluxflow_registry.engine.training.building import build_optimizer, count_as_stepped, stepping
from fluxflow_registry.engine.training.late_start import Extent, Starts
from fluxflow_registry.engine.training.loss_weights import LossWeights
from fluxflow_registry.engine.training.not_finite import Evidence, evidence_of
from fluxflow_registry.engine.training.schedule import Schedule
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import UpdatePlan

#: What became of a window of batches: the optimizer stepped; it skipped, because something is not finite; a gradient
#: overflowed at a large loss scale, which lowers the scale; or the window is not closed yet.
Outcome = Literal["stepped", "skipped", "overflowed", "waited"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OptimizerStep:
    """The optimizer of an update with its scheduler and, in half precision, its loss scaler."""

    def __init__(
        self, update: UpdatePlan, parameters: Mapping[str, Tensor], fp16: str | None, extent: Extent, starts: Starts
    ) -> None:
        self._update = update
        self._parameters = list(parameters.values())
        self.optimizer = build_optimizer(update.optimizer, parameters)
        self.scaler = torch.amp.GradScaler(fp16) if fp16 is not None else None
        self.schedule = Schedule(update, self.optimizer, parameters, extent, starts)

    @property
    def scheduler(self) -> Any:
        """The scheduler of torch; None without one, and while its length is not known."""
        return self.schedule.scheduler

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, terms: Sequence[Term], cuts: Sequence[StageCut], window: int, alone: bool) -> None:
        """Add the gradients of a batch, averaged over a window of batches; `alone`: no gradient can go astray."""
        if window > 1:
            terms = [evolve(term, value=term.value / window) for term in terms]
        if self.scaler is not None:
            terms = [evolve(term, value=self.scaler.scale(term.value)) for term in terms]
        if alone:
            torch.autograd.backward([term.value for term in terms])
        else:
            backward(terms, cuts, self._parameters)

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients, unscaled."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients, foreach=True)

    def outcome(self, loss: Tensor, norm: Tensor) -> Outcome:
        """What becomes of a window with this total loss and gradient norm."""
        if math.isfinite(float(loss + norm)):
            return "stepped"
        # A gradient that overflows at a large scale concerns the scaler alone, which lowers the scale.
        overflow = self.scaler is not None and math.isfinite(float(loss)) and self.scaler.get_scale() > 1
        return "overflowed" if overflow else "skipped"

    def close(self, outcome: Outcome, norm: Tensor) -> None:
        """Clip and step, or leave the weights as they are; the gradients are dropped in any case."""
        clip = self._update.entry.settings.clip_grad_norm
        if outcome == "stepped":
            if clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, clip, norm, foreach=True)
            with stepping(self._update.optimizer):
                if self.scaler is not None:
                    self.scaler.step(self.optimizer)
                else:
                    self.optimizer.step()
            self.schedule.end_batch()
        if self.scaler is not None:
            # Losses that are not finite say nothing about the scale.
            self.scaler.update(self.scaler.get_scale() if outcome == "skipped" else None)
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The state of every part that has one."""
        parts: dict[str, Any] = {"optimizer": self.optimizer, "scaler": self.scaler}
        state = {name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)}
        return state | self.schedule.state()

    def load(self, state: Mapping[str, Any], at: Position | None = None) -> None:
        """Restore the state; `at`: where a run resumes, whose dataset may have changed since."""
        changed = self.schedule.load(state, at)
        parts: dict[str, Any] = {"optimizer": self.optimizer, "scaler": self.scaler}
        for name, part in parts.items():
            if name in state:
                part.load_state_dict(state[name])
        for group, values in zip(self.optimizer.param_groups, changed, strict=False):
            group.update(values)
        _match_memory_layout(self.optimizer)
        count_as_stepped(self.optimizer)  # it has, in an earlier process


def _match_memory_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's state of each parameter out in memory as the parameter is: checkpoints keep no layout.

    Fused kernels go through both in the order of memory, whatever the strides are.
    """
    for parameter, state in optimizer.state.items():
        for name, tensor in state.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape and tensor.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def autocast_of(device: torch.device, precision: str) -> Callable[[], Any]:
    """A factory of the context in which values are computed at this precision."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=_HALF[precision])


# More than a dozen members: its counters are kept in checkpoints, beside its parts.
class LiveUpdate:
    """One update of a live step: it runs once on every batch."""

    def __init__(self, step: StepPlan, plan: UpdatePlan, values: Values, models: Mapping[str, nn.Module]) -> None:
        self.plan = plan
        self.parameters = trained_parameters(models, plan.trains)
        self.losses = LiveLosses(step, plan, values, as_float=step.settings.precision != "fp32")
        self.starts = Starts(plan)
        extent = Extent(step.epochs, step.batches, step.accumulate)
        fp16 = values.draws.device.type if step.settings.precision == "fp16" else None
        self.optimizer = OptimizerStep(plan, self.parameters, fp16, extent, self.starts)
        self.weights = LossWeights(plan, self.parameters)
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
            metrics[f"{self.name}/lr"] = self.optimizer.lr  # of this batch: the scheduler sets the next one's
            self._close(self._total, norm, step_batch)
        if closing:
            self._total, self._window = None, []
        # The plan relies on it on every batch, whether the optimizer has stepped or only will.
        self.losses.values.forget(self.plan.stale)
        return metrics

    def _add_gradients(
        self, active: Sequence[LiveLoss], step_batch: int, window: int, metrics: dict[str, Tensor | float]
    ) -> dict[str, Tensor]:
        self.losses.compute_values(active)
        losses = {loss.label: self.losses.compute(loss) for loss in active}
        cuts = [] if self.losses.alone else self.losses.cuts()
        own = {loss.label: loss.plan.weight_at(step_batch - self.starts.since[loss.label]) for loss in active}
        weights = self.weights.of(own, losses, active, cuts, self.optimizer.scaler)
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

    def is_finite(self, step_batch: int) -> bool:
        """Whether all losses that have started, and their gradients, are finite on the batch in the values."""
        active = [loss for loss in self.losses.all if self.starts.since[loss.label] <= step_batch]
        self._add_gradients(active, step_batch, 1, {})
        total, self._total = self._total, None
        assert total is not None
        norm = self.optimizer.gradient_norm()
        finite = self.optimizer.outcome(total, norm) != "skipped"
        self.optimizer.close("skipped", norm)
        self.losses.values.forget(self.plan.stale)
        return finite

    def has_started(self, step_batch: int) -> bool:
        """Whether some loss was computed on one of the first `step_batch` batches of the step."""
        return self.starts.first < step_batch

    def end_epoch(self, metrics: Mapping[str, float], step_batch: int) -> None:
        """Advance a scheduler that counts epochs; `metrics` are the epoch's means and evaluations."""
        if self.has_started(step_batch):
            self.optimizer.schedule.end_epoch(metrics)

    def meet(self, name: str, step_batch: int) -> None:
        """Start a loss, or the update itself, whose condition is met."""
        self.starts.meet(name, step_batch)
        self.optimizer.schedule.start()

    def state(self) -> dict[str, Any]:
        """All that is not a function of the position."""
        state = self.optimizer.state()
        if isinstance(self.weights.weigher, Stateful):
            state["weigher"] = self.weights.weigher.state_dict()
        if self.starts.conditions:
            state["starts"] = dict(self.starts.met)
        state |= {"skipped_in_a_row": self.skipped_in_a_row, "skipping_since": self.skipping_since}
        return {**state, "steps": self.steps, "skips": self.skips}

    def load(self, state: Mapping[str, Any], at: Position | None = None) -> None:
        """Restore the state; `at`: where a run resumes."""
        self.load_moving(state, at)
        self.skipped_in_a_row, self.skipping_since = int(state["skipped_in_a_row"]), int(state["skipping_since"])
        self.steps, self.skips = int(state["steps"]), int(state["skips"])

    def load_moving(self, state: Mapping[str, Any], at: Position | None = None) -> None:
        """Restore what has started, and the state of the optimizer and the balancer, but no counter."""
        self.starts.load(state.get("starts", {}))
        self.optimizer.schedule.start()
        self.optimizer.load(state, at)
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
