"""The optimizer's step: gradients accumulated, clipped, applied, or skipped if not finite; then the scheduler's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from attrs import evolve
from torch import Tensor

from fluxflow_registry.contracts import SchedulerExtras
from fluxflow_registry.engine.graph.backward import StageCut, Term, backward
from fluxflow_registry.engine.graph.calls import build
from fluxflow_registry.engine.training.late_start import Extent, Starts, intervals
from fluxflow_registry.plan.updates import UpdatePlan

#: What an update keeps in checkpoints by the names under which it is stored there.
_PARTS = ("optimizer", "scheduler", "scaler")

#: What became of a window of batches: the optimizer stepped; it skipped, because something is not finite; a gradient
#: overflowed at a large loss scale, which lowers the scale; or the window is not closed yet.
Outcome = Literal["stepped", "skipped", "overflowed", "waited"]


class OptimizerStep:
    """The optimizer of an update with its scheduler and, in half precision, its loss scaler."""

    def __init__(
        self, update: UpdatePlan, parameters: Sequence[Tensor], fp16: str | None, extent: Extent, starts: Starts
    ) -> None:
        self._update = update
        self._parameters = parameters
        self._extent = extent
        self._starts = starts
        self.optimizer: torch.optim.Optimizer = build(update.optimizer, parameters=list(parameters))
        self.scaler = torch.amp.GradScaler(fp16) if fp16 is not None else None
        extras = SchedulerExtras.of(update.scheduler.instance if update.scheduler else None)
        self._interval = extras.interval
        #: The metric that the scheduler receives after each epoch, if it looks at one.
        self._metric = extras.metric or f"{update.name}_loss"
        self.scheduler: Any = None
        self.schedule()

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
        if outcome == "stepped":
            self._step(norm)
        if self.scaler is not None:
            # Losses that are not finite say nothing about the scale.
            self.scaler.update(self.scaler.get_scale() if outcome == "skipped" else None)
        self.optimizer.zero_grad(set_to_none=True)

    def _step(self, norm: Tensor) -> None:
        clip = self._update.entry.settings.clip_grad_norm
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, clip, norm, foreach=True)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
        else:
            self.optimizer.step()
        if self.scheduler is not None and self._interval == "batch":
            self.scheduler.step()

    def schedule(self) -> None:
        """Build the scheduler once it is known when the update starts: it spans what is left of the step."""
        configured = self._update.scheduler
        total = intervals(self._extent, self._starts, self._interval) if configured else None
        if configured is None or total is None:
            self.scheduler = None
        elif self.scheduler is None:
            self.scheduler = build(configured, optimizer=self.optimizer, total=total)

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Advance a scheduler that counts epochs; `metrics` are the epoch's means and evaluations."""
        if self.scheduler is None or self._interval != "epoch":
            return
        if not isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step()
        elif self._metric in metrics:
            self.scheduler.step(metrics[self._metric])
        elif self._metric == f"{self._update.name}_loss":  # no value of it was finite
            self.scheduler.step(math.inf)

    def state(self) -> dict[str, Any]:
        """The state of every part that has one."""
        parts = {name: getattr(self, name) for name in _PARTS}
        return {name: part.state_dict() for name, part in parts.items() if hasattr(part, "state_dict")}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the state, after `schedule`."""
        for name in _PARTS:
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        _match_memory_layout(self.optimizer)
        # The optimizer has stepped, in an earlier process; schedulers warn of one that never has.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]


def _match_memory_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's state of each parameter out in memory as the parameter is: checkpoints keep no layout.

    Fused kernels go through both in the order of memory, whatever the strides say.
    """
    for parameter, state in optimizer.state.items():
        for name, tensor in state.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape and tensor.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
