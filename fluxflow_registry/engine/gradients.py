"""The gradients that a balancer asks for: each loss's own, at one parameter, on the batch at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import evolve
from torch import Tensor

from fluxflow_registry.engine.backward import Split, Term, gradient_at
from fluxflow_registry.errors import FluxflowError, Problem, choices


class LossGradients:
    """What `contracts.Gradients` promises, for the losses that a turn has just computed."""

    def __init__(self, parameters: Mapping[str, Tensor], where: str) -> None:
        self.parameters = parameters
        self.where = where
        #: The weight of each loss on the batch at hand, before the balancer's factor.
        self.weights: Mapping[str, float] = {}
        self._terms: Mapping[str, Term] = {}
        self._splits: Sequence[Split] = ()
        self._scale: torch.amp.GradScaler | None = None

    def check(self, layer: str) -> None:
        """Raise FluxflowError where the update trains no parameter of that name."""
        if layer not in self.parameters:
            message = f"`{layer}` is no parameter that the update trains"
            raise FluxflowError(Problem(message, self.where, choices(layer, self.parameters, "trained")))

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
