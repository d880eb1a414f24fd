"""The gradients that a balancer asks for: each loss's own, at one parameter, on the batch at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from attrs import evolve
from torch import Tensor

from fluxflow_registry.engine.graph.backward import Split, Term, gradient_at
from fluxflow_registry.errors import FluxflowError, Problem, choices
from fluxflow_registry.plan.checked import CheckedUpdate
from fluxflow_registry.plan.updates import UpdatePlan


class LossGradients:
    """What `contracts.Gradients` promises, for the losses that a turn has just computed."""

    def __init__(self, parameters: Mapping[str, Tensor], checked: CheckedUpdate, plan: UpdatePlan) -> None:
        self.parameters = parameters
        self.where = checked.balancer.where if checked.balancer else ""
        self.who = f"balancer `{checked.balancer.component.name}`" if checked.balancer else ""
        self.plan = plan
        #: What the balancer has asked to be held: for each parameter, the losses that must reach it.
        self.held: dict[str, list[str]] = {}
        #: The weight of each loss on the batch at hand, before the balancer's factor.
        self.weights: Mapping[str, float] = {}
        self._terms: Mapping[str, Term] = {}
        self._splits: Sequence[Split] = ()
        self._scale: torch.amp.GradScaler | None = None

    def check(self, layer: str, losses: Sequence[str] = ()) -> None:
        """Raise FluxflowError where the update trains no parameter of that name, or a loss cannot reach its model.

        Whether each loss reaches the parameter itself is proven with the shapes: see `reached`.
        """
        if layer not in self.parameters:
            message = f"`{layer}` is no parameter that the update trains"
            raise FluxflowError(Problem(message, self.where, choices(layer, self.parameters, "trained")))
        self.held.setdefault(layer, []).extend(losses)
        reaches = {loss.label: loss.reaches for loss in self.plan.losses}
        model = max((name for name in self.plan.trains if layer.startswith(f"{name}.")), key=len)
        self._refuse(layer, [label for label in losses if label in reaches and model not in reaches[label]])

    def reached(self) -> None:
        """Raise FluxflowError where a loss of the batch at hand does not reach a parameter that it is to reach."""
        for layer, losses in self.held.items():
            try:
                found = self(layer) if losses else {}
            except (RuntimeError, NotImplementedError):  # no way back from shapes alone: the first batch will tell
                continue
            self._refuse(layer, [label for label in losses if label in self._terms and label not in found])

    def _refuse(self, layer: str, losses: Sequence[str]) -> None:
        """Raise FluxflowError for losses that do not reach a parameter, with what each of them moves."""
        plans = {loss.label: loss for loss in self.plan.losses}
        problems = []
        for label in dict.fromkeys(losses):
            loss = plans[label]
            cut = f", cut at {_named(loss.detach)}" if loss.detach else ""
            message = f"{self.who} of update `{self.plan.name}`: loss `{label}` does not reach `{layer}`"
            problems.append(Problem(message, self.where, (("it moves", f"{_named(loss.reaches)}{cut}"),)))
        if problems:
            raise FluxflowError(problems)

    def of(
        self,
        terms: Mapping[str, Term],
        splits: Sequence[Split],
        weights: Mapping[str, float],
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        """Take the losses of a batch, whose graph stands until the turn walks back."""
        self._terms, self._splits, self.weights, self._scale = terms, splits, weights, scaler

    def forget(self) -> None:
        """Let the graph go."""
        self._terms, self._splits = {}, ()

    def __call__(self, layer: str) -> dict[str, Tensor]:
        """The gradient of each loss without its weight; a loss that does not reach the parameter is not among them.

        In half precision the walk is scaled as the turn's own, lest small gradients vanish on the way.
        """
        parameter = self.parameters[layer]
        found = {}
        for label, term in self._terms.items():
            scaled = term if self._scale is None else evolve(term, value=self._scale.scale(term.value))
            gradient = gradient_at(scaled, self._splits, parameter)
            if gradient is not None:
                found[label] = gradient if self._scale is None else gradient / self._scale.scale(gradient.new_ones(()))
        return found


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "no model"
