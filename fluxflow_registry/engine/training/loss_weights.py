"""The weights of an update's losses on a batch: those of the plan, multiplied by the factors of the balancer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from fluxflow_registry.engine.graph.calls import build, describe, read_numbers
from fluxflow_registry.engine.graph.losses import LiveLoss, StageCut, Term, gradient_at
from fluxflow_registry.errors import Choices, FluxflowError, Location, Problem, TrainingError, one_line
from fluxflow_registry.plan.updates import UpdatePlan, model_names
from fluxflow_registry.registry.signature import raised_at


class LossGradients:
    """What `contracts.Gradients` promises, for the losses of an update that were just computed."""

    def __init__(self, parameters: Mapping[str, Tensor], update: UpdatePlan) -> None:
        self.parameters = parameters
        self.update = update
        #: What the balancer requires: for each parameter, the losses that must reach it.
        self.required: dict[str, list[str]] = {}
        #: The weight of each loss on the current batch, before the balancer's factor.
        self.weights: Mapping[str, float] = {}
        self._terms: Mapping[str, Term] = {}
        self._cuts: Sequence[StageCut] = ()
        self._scale: torch.amp.GradScaler | None = None

    def check(self, layer: str, losses: Sequence[str] = ()) -> None:
        """Raise FluxflowError where the update trains no parameter of that name, or a loss cannot reach its model.

        Whether each loss reaches the parameter itself is proven with the shapes: see `check_reached`.
        """
        if layer not in self.parameters:
            who, where = self._balancer()
            message = f"{who}: `{layer}` is not a parameter that the update trains"
            choices = Choices.of(layer, self.parameters)
            raise FluxflowError(Problem(message, where, code="unknown-name", subject=layer, choices=choices))
        self.required.setdefault(layer, []).extend(losses)
        model = max((name for name in self.update.trains if layer.startswith(f"{name}.")), key=len)
        planned = [label for label in losses if label in self.update.losses]
        self._require(layer, [label for label in planned if model not in self.update.losses[label].reaches])

    def check_reached(self) -> None:
        """Raise FluxflowError where a loss of the current batch does not reach a parameter that it must reach."""
        for layer, losses in self.required.items():
            try:
                found = self(layer) if losses else {}
            except (RuntimeError, NotImplementedError):  # no backward pass from shapes alone: the first batch shows
                continue
            self._require(layer, [label for label in losses if label in self._terms and label not in found])

    def use(
        self,
        terms: Mapping[str, Term],
        cuts: Sequence[StageCut],
        weights: Mapping[str, float],
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        """Use the losses of a batch, whose graph exists until the backward pass of its update."""
        self._terms, self._cuts, self.weights, self._scale = terms, cuts, weights, scaler

    def release(self) -> None:
        """Release the graph."""
        self._terms, self._cuts = {}, ()

    def __call__(self, layer: str) -> dict[str, Tensor]:
        """The gradient of each loss without its weight; losses that do not reach the parameter are left out.

        In half precision the pass is scaled as the update's own, so that small gradients do not vanish on the way.
        """
        parameter = self.parameters[layer]
        found = {}
        for label, term in self._terms.items():
            scaled = term if self._scale is None else evolve(term, value=self._scale.scale(term.value))
            gradient = gradient_at(scaled, self._cuts, parameter)
            if gradient is not None:
                found[label] = gradient if self._scale is None else gradient / self._scale.scale(gradient.new_ones(()))
        return found

    def _balancer(self) -> tuple[str, Location]:
        """Who requests gradients, and its place in the recipe."""
        balancer = self.update.balancer
        assert balancer is not None
        return f"balancer `{balancer.name}` of update `{self.update.name}`", balancer.where

    def _require(self, layer: str, unreached: Sequence[str]) -> None:
        """Raise FluxflowError for losses that do not reach a parameter, with what each of them reaches."""
        problems = []
        who, where = self._balancer()
        for label in dict.fromkeys(unreached):
            loss = self.update.losses[label]
            detached = f", detached at {model_names(loss.detached)}" if loss.detached else ""
            message = f"{who}: loss `{label}` does not reach `{layer}`"
            cause = ("cause", f"it reaches {model_names(loss.reaches)}{detached}")
            problems.append(Problem(message, where, (cause,), code="not-reached", subject=label))
        if problems:
            raise FluxflowError(problems)


class LossWeights:
    """Weighs the losses of an update; `weigher` is what its balancer returns, or None."""

    def __init__(self, update: UpdatePlan, parameters: Mapping[str, Tensor]) -> None:
        self.update = update
        self.gradients = LossGradients(parameters, update)
        self.weigher: Any = None
        if update.balancer is not None:
            self.weigher = build(update.balancer, losses=list(update.losses), gradients=self.gradients)

    def changes(self, loss: LiveLoss) -> bool:
        """Whether the weight of a loss changes from batch to batch, so that it is logged."""
        return loss.plan.warmup > 0 or self.weigher is not None

    def of(
        self,
        own: Mapping[str, float],
        losses: Mapping[str, Tensor],
        active: Sequence[LiveLoss],
        cuts: Sequence[StageCut],
        scaler: torch.amp.GradScaler | None,
    ) -> Mapping[str, float | Tensor]:
        """The weight of each active loss on this batch: its `own`, times the factor of the balancer."""
        if self.weigher is None:
            return own
        self.gradients.use({loss.label: loss.term(losses[loss.label]) for loss in active}, cuts, own, scaler)
        factors = self._factors({label: loss.detach() for label, loss in losses.items()})
        self.gradients.release()
        return {label: weight * factors.get(label, 1.0) for label, weight in own.items()}

    def check_weigher(self) -> None:
        """Weigh all losses at once, with numbers for them; raises FluxflowError where that fails or weighs none."""
        if self.update.balancer is None:
            return
        try:
            factors = self._factors({label: torch.tensor(1.0 + n) for n, label in enumerate(self.update.losses)})
        except TrainingError as error:
            if read_numbers(error):  # of gradients, which have only shapes here
                return
            raise
        if not factors:
            raise self._wrong_return("no factor for any loss")

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
            named = [evolve(each, message=f"{who}: {each.message}") for each in error.problems]
            raise TrainingError([evolve(each, where=each.where or balancer.where) for each in named]) from error
        except Exception as error:
            notes = (("defined in", balancer.definition), *raised_at(error))
            message = f"{who}: {one_line(error)}"
            raise TrainingError(Problem(message, balancer.where, notes, code="component-failed")) from error
        wrong = self._wrong(factors)
        if wrong is not None:
            raise self._wrong_return(wrong)
        return factors

    def _wrong_return(self, returned: str) -> TrainingError:
        balancer = self.update.balancer
        assert balancer is not None
        message = f"balancer `{balancer.name}` of update `{self.update.name}` returned {returned}"
        notes = (("defined in", balancer.definition), ("instead", "a mapping of each loss's label to its factor"))
        return TrainingError(Problem(message, balancer.where, notes, code="wrong-return", subject=balancer.name))

    def _wrong(self, factors: object) -> str | None:
        """What is wrong with the factors that a weigher returned; None where nothing is."""
        if not isinstance(factors, Mapping):
            return f"a value of type {type(factors).__name__}"
        for label, factor in factors.items():
            if label not in self.update.losses:
                return f"a factor of `{label}`, which is not a loss of the update"
            if isinstance(factor, Tensor) and (factor.ndim or factor.is_complex()):
                what = "complex" if factor.is_complex() else f"a tensor of shape {describe(factor)}"
                return f"a factor of `{label}` that is {what}, not a real number"
            if not isinstance(factor, (Tensor, Real)) or isinstance(factor, bool):
                return f"a factor of `{label}` of type {type(factor).__name__}"
        return None
