"""An update's turn within a batch: values, losses, gradients, one step of its optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from fluxflow_registry.check.checker import CheckedUpdate
from fluxflow_registry.engine.graph.backward import Split, Term, split_of, walk_back
from fluxflow_registry.engine.graph.loss_gradients import LossGradients
from fluxflow_registry.engine.graph.values import Binding, Values, bind, failed, raised_at
from fluxflow_registry.engine.models.frozen import trained_parameters
from fluxflow_registry.engine.training.late_start import Extent, Starts, intervals
from fluxflow_registry.engine.training.not_finite import Evidence, evidence_of
from fluxflow_registry.errors import FluxflowError, Problem, TrainingError, one_line
from fluxflow_registry.plan.updates import StepPlan, UpdatePlan

_COUNTS = ("skipped_in_a_row", "skipping_since", "steps", "skips")

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_of(device: torch.device, precision: str) -> Any:
    """A factory of the context in which values are computed at this precision."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=_HALF[precision])


@frozen
class LiveLoss:
    """A loss of a live update: how it is called, and what its weight is on each batch."""

    label: str
    binding: Binding
    weight: float
    warmup: int
    cuts: frozenset[str]
    stage: int
    closure: frozenset[str]

    def weight_at(self, batch: int) -> float:
        """W (1 - cos(pi s / warmup)) / 2 over the first `warmup` batches s since the loss has started, then w."""
        if batch >= self.warmup:
            return self.weight
        return self.weight * (1 - math.cos(math.pi * batch / self.warmup)) / 2


class LiveUpdate:
    """One update of a live step, with its optimizer and everything that it keeps between batches."""

    def __init__(
        self,
        checked: CheckedUpdate,
        plan: StepPlan,
        values: Values,
        models: Mapping[str, nn.Module],
        precision: str,
        extent: Extent,
    ) -> None:
        self.name = checked.name
        self.checked = checked
        self.extent = extent
        self.plan = next(update for update in plan.updates if update.name == checked.name)
        self.values = values
        self.precision = precision
        self.clip = checked.clip_grad_norm
        self.named = trained_parameters(models, checked.trains)
        self.parameters = list(self.named.values())
        # For each split on this update's way, in order: how many splits lie before it.
        self.splits = stages(plan, self.plan)
        names = list(self.splits)
        self.losses = [_loss(checked, self.plan, label, values, names) for label in checked.losses]
        self.device = values.draws.device
        self.optimizer: torch.optim.Optimizer = made(checked.optimizer, parameters=self.parameters)
        self.starts = Starts(checked)
        self.interval = getattr(checked.scheduler.instance, "interval", "epoch") if checked.scheduler else "epoch"
        self.scheduler: Any = None
        self.schedule()
        #: The metric that the scheduler is told after each epoch, if it looks at one.
        self.watches = getattr(checked.scheduler and checked.scheduler.instance, "metric", None) or f"{self.name}_loss"
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None
        self.gradients = LossGradients(self.named, checked, self.plan)
        self.weigher = weigher_of(checked, self.gradients)
        #: Batches left out one after the other, and the step's batch at which that began.
        self.skipped_in_a_row = self.skipping_since = 0
        #: What was not finite in the first of them, until the next begins.
        self.evidence: Evidence | None = None
        #: For each batch whose gradients wait for the optimizer: its losses.
        self.given: list[dict[str, Tensor]] = []
        #: How often the optimizer has stepped, and how often a batch was left out.
        self.steps = self.skips = 0
        #: What became of the latest batch: the optimizer stepped, skipped it, or waits for the window.
        self.outcome: Literal["stepped", "skipped", "waited"] = "waited"
        #: Sum of the losses whose gradients wait for the optimizer; None when there are none.
        self.window: Tensor | None = None
        # Where every trained model in sight is this update's own, gradients cannot go astray.
        seen = frozenset().union(*(loss.closure for loss in self.losses)) & plan.trains
        self.alone = seen <= self.plan.trains and not self.splits
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}

    def take(self, step_batch: int, closing: bool, window: int = 1) -> dict[str, Tensor | float]:
        """Do the turn for the batch in `values`; the optimizer steps where a window is `closing`.

        `window` is the number of batches whose gradients are averaged. Gives the metrics of the batch;
        `outcome` says what became of it. Raises nothing for a loss or a gradient that is not finite:
        then the optimizer, its scheduler and the parameters stay as they are.
        """
        metrics: dict[str, Tensor | float] = {}
        self.outcome = "waited"
        active = [loss for loss in self.losses if self.starts.counts(loss.label, step_batch)]
        losses: dict[str, Tensor] = {}
        if active:
            self.values.compute(self._order(active), self.plan.carries)
            losses = {loss.label: self._call(loss) for loss in active}
            splits = [] if self.alone else self._splits()
            weights = self._weights(active, losses, splits, step_batch)
            total, terms = self._terms(active, losses, weights)
            if self.values.watch is not None:
                self.values.watch("total", self.name, total)
            self._backward(terms, splits, window)
            self.window = total if self.window is None else self.window + total
            metrics[f"{self.name}_loss"] = total
            metrics.update({f"{self.name}/{label}": loss.detach() for label, loss in losses.items()})
            changing = {loss.label for loss in active if loss.warmup or self.weigher}
            metrics.update({f"{self.name}/{label}/weight": weights[label] for label in weights if label in changing})
        self.given.append({label: loss.detach() for label, loss in losses.items()})
        if closing and self.window is not None:
            norm = metrics[f"{self.name}/grad_norm"] = self._gradient_norm()
            self._close(norm, step_batch)
            metrics[f"{self.name}/lr"] = float(self.optimizer.param_groups[0]["lr"])
        if closing:
            self.window = None
            self.given = []
        # The plan counts on it on every batch, whether the optimizer has stepped or only will.
        self.values.forget(self.plan.stale)
        return metrics

    def _order(self, active: list[LiveLoss]) -> tuple[str, ...]:
        """The values that these losses need: a lazy loss costs nothing on the batches between."""
        key = tuple(loss.label for loss in active)
        if key not in self._orders:
            needed = frozenset().union(*(loss.closure for loss in active))
            self._orders[key] = tuple(name for name in self.plan.order if name in needed)
        return self._orders[key]

    def _call(self, loss: LiveLoss) -> Tensor:
        arguments = self.values.arguments(loss.binding, self.plan.trains, as_float=self.precision != "fp32")
        try:
            result: Tensor = loss.binding.call(**arguments)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise failed("loss", loss.binding, arguments, error) from error
        if self.values.watch is not None:
            self.values.watch("loss", loss.binding.name, result)
        if not isinstance(result, Tensor) or result.ndim:
            found = f"a tensor of shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            message = f"loss `{loss.label}` gives {found}; a loss is a 0-d tensor"
            raise TrainingError(Problem(message, None, (("defined in", str(loss.binding.where)),)))
        if not result.requires_grad:
            message = f"loss `{loss.label}` carries no gradient: something in it detaches what it was given"
            raise TrainingError(Problem(message, None, (("defined in", str(loss.binding.where)),)))
        return result

    def _weights(
        self, active: list[LiveLoss], losses: Mapping[str, Tensor], splits: Sequence[Split], step_batch: int
    ) -> Mapping[str, float | Tensor]:
        """The weight of each loss on this batch: the recipe's, its warm-up, and the balancer's factor."""
        own = {loss.label: loss.weight_at(step_batch - (self.starts.since(loss.label) or 0)) for loss in active}
        if self.weigher is None:
            return own
        parts = {loss.label: Term(losses[loss.label], loss.cuts, loss.stage) for loss in active}
        self.gradients.of(parts, splits, own, self.scaler)
        factors = self._factors({label: loss.detach() for label, loss in losses.items()})
        self.gradients.forget()
        return {label: weight * factors.get(label, 1.0) for label, weight in own.items()}

    def _factors(self, losses: Mapping[str, Tensor]) -> Mapping[str, float | Tensor]:
        """What the balancer says; a failure names it, its update and its place in the recipe."""
        assert self.checked.balancer is not None
        balancer = self.checked.balancer
        who = f"balancer `{balancer.component.name}` of update `{self.name}` failed"
        try:
            factors: Mapping[str, float | Tensor] = self.weigher(losses)
        except torch.OutOfMemoryError:
            raise
        except FluxflowError as error:
            told = [evolve(p, message=f"{who}: {p.message}", where=p.where or balancer.where) for p in error.problems]
            raise TrainingError(told) from error
        except Exception as error:
            notes = (("defined in", str(balancer.component.signature.where)), *raised_at(error))
            raise TrainingError(Problem(f"{who}: {one_line(error)}", balancer.where, notes)) from error
        return factors

    def _terms(
        self, active: list[LiveLoss], losses: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]
    ) -> tuple[Tensor, list[Term]]:
        """The weighted sum, and its parts by their cuts and by where their walk back begins."""
        sums: dict[tuple[frozenset[str], int], Tensor] = {}
        for loss in active:
            weighted = losses[loss.label] * weights[loss.label]
            key = loss.cuts, loss.stage
            sums[key] = sums[key] + weighted if key in sums else weighted
        terms = [Term(value, *key) for key, value in sums.items()]
        total = terms[0].value.detach()
        for term in terms[1:]:
            total = total + term.value.detach()
        return total, terms

    def _splits(self) -> list[Split]:
        """The splits of this batch's graph, in the order of computation."""
        return splits_in(self.splits, self.values)

    def _backward(self, terms: list[Term], splits: Sequence[Split], window: int) -> None:
        if window > 1:
            terms = [evolve(term, value=term.value / window) for term in terms]
        if self.scaler is not None:
            terms = [evolve(term, value=self.scaler.scale(term.value)) for term in terms]
        if self.alone:
            torch.autograd.backward([term.value for term in terms])
        else:
            walk_back(terms, splits, self.parameters)

    def _gradient_norm(self) -> Tensor:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients, foreach=True)

    def _close(self, norm: Tensor, step_batch: int) -> None:
        """At a window's end: step, or leave the window out because something is not finite."""
        assert self.window is not None
        finite = math.isfinite(float(self.window + norm))
        # A gradient that overflows at a large scale is the scaler's affair: it lowers the scale.
        overflow = (
            not finite and self.scaler is not None and math.isfinite(float(self.window)) and self.scaler.get_scale() > 1
        )
        if finite:
            self._step(norm)
        elif not overflow:
            if self.skipped_in_a_row == 0:
                self.skipping_since = step_batch
            if self.skipped_in_a_row == 0 or self.evidence is None:
                self.evidence = evidence_of(self.values, self.given, self.named)
            self.skips += 1
        if self.scaler is not None:
            # Losses that are not finite say nothing about the scale.
            self.scaler.update(None if finite or overflow else self.scaler.get_scale())
        self.optimizer.zero_grad(set_to_none=True)
        self.outcome = "stepped" if finite else "skipped"
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + (not overflow)

    def _step(self, norm: Tensor) -> None:
        """Clip and step."""
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm, foreach=True)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
        else:
            self.optimizer.step()
        self.steps += 1
        if self.scheduler is not None and self.interval == "batch":
            self.scheduler.step()

    def schedule(self) -> None:
        """Make the scheduler once it is known when the update starts: it is as long as what is left of the step."""
        stated = self.checked.scheduler
        total = intervals(self.extent, self.starts, self.interval) if stated else None
        if total is None:
            self.scheduler = None
        elif self.scheduler is None:
            self.scheduler = made(stated, optimizer=self.optimizer, total=total)

    def begun(self, step_batch: int) -> bool:
        """Whether some loss was computed on one of the first `step_batch` batches of the step."""
        return self.starts.first is not None and self.starts.first < step_batch

    def end_epoch(self, metrics: Mapping[str, float], step_batch: int) -> None:
        """Let a scheduler that counts epochs count one; `metrics` are the epoch's means and evaluations."""
        if self.scheduler is None or self.interval != "epoch" or not self.begun(step_batch):
            return
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if self.watches in metrics:
                self.scheduler.step(metrics[self.watches])
            elif self.watches == f"{self.name}_loss":  # nothing of it was finite
                self.scheduler.step(math.inf)
        else:
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """All that is not a function of the position; a part keeps state if it has torch's `state_dict`."""
        parts: dict[str, Any] = {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "weigher": self.weigher,
        }
        state = {name: part.state_dict() for name, part in parts.items() if hasattr(part, "state_dict")}
        if self.starts.conditions:
            state["starts"] = self.starts.state()
        return {**state, **{name: getattr(self, name) for name in _COUNTS}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the state back."""
        self.load_parts(state)
        for name in _COUNTS:
            setattr(self, name, int(state[name]))

    def load_parts(self, state: Mapping[str, Any]) -> None:
        """Take back what has started, and what the optimizer and its companions keep, but no count."""
        self.starts.load(state.get("starts", {}))
        self.schedule()
        for name in ("optimizer", "scheduler", "scaler", "weigher"):
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        _lie_alike(self.optimizer)
        # The optimizer has stepped, in an earlier process; schedulers warn of one that never has.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]


def _lie_alike(optimizer: torch.optim.Optimizer) -> None:
    """Lay what the optimizer keeps of each parameter out in memory as the parameter is: checkpoints know no layout.

    Fused kernels go through both in the order of memory, whatever the strides say.
    """
    for parameter, kept in optimizer.state.items():
        for name, tensor in kept.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape and tensor.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def stages(step: StepPlan, update: UpdatePlan) -> dict[str, int]:
    """The splits on an update's way, in order, each with the number of the last split before it."""
    names = [name for name in update.order if name in step.splits]
    return {name: stage_of(names, step.values[name].upstream) for name in names}


def splits_in(numbered: Mapping[str, int], values: Values) -> list[Split]:
    """Those of the splits at which the graph of this batch is in two, in the order of computation."""
    return [
        split_of(name, kept, number, stage)
        for number, (name, stage) in enumerate(numbered.items(), 1)
        if (kept := values.kept.get(name)) is not None and kept.origin is not None
    ]


def stage_of(splits: Sequence[str], closure: frozenset[str]) -> int:
    """The stage of what depends on `closure`: the number of the last split in it, 0 for none."""
    return max((number for number, name in enumerate(splits, 1) if name in closure), default=0)


def _loss(checked: CheckedUpdate, plan: UpdatePlan, label: str, values: Values, splits: Sequence[str]) -> LiveLoss:
    configured = checked.losses[label]
    planned = next(loss for loss in plan.losses if loss.label == label)
    settings = configured.entry.settings if configured.entry else None
    where = configured.component.signature.where
    name = f"{checked.name}/{label}"
    return LiveLoss(
        label=label,
        binding=bind(name, planned.needs, configured.instance, values.plan, where),
        weight=checked.weight(label),
        warmup=settings.warmup if settings else 0,
        cuts=planned.detach,
        stage=stage_of(splits, planned.closure),
        closure=planned.closure,
    )


def weigher_of(checked: CheckedUpdate, gradients: LossGradients) -> Any:
    """The weigher of an update's losses, or None where their weights stay as the recipe has them."""
    if checked.balancer is None:
        return None
    return made(checked.balancer, losses=list(checked.losses), gradients=gradients)


def made(configured: Any, **offered: Any) -> Any:
    """What a builder builds, given what it asks for; a failure names the builder and its options."""
    needs = configured.component.signature.needs
    try:
        return configured.instance(**{name: offered[name] for name in needs})
    except FluxflowError as error:
        if type(error).__init__ is not FluxflowError.__init__ or all(problem.where for problem in error.problems):
            raise
        raise type(error)([evolve(each, where=each.where or configured.where) for each in error.problems]) from error
    except Exception as error:
        message = f"{configured.component.kind} `{configured.component.name}` cannot be made: {one_line(error)}"
        raise TrainingError(Problem(message, configured.where)) from error
