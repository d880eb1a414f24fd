"""Values computed outside of training: by an observer of a run, or from a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import nn

from fluxflow_registry.contracts import Sampler
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.engine.graph.values import Values, evaluate
from fluxflow_registry.errors import Place, Problem, RunError
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.values import Request, ValuePlan, World, resolve_values


@frozen(eq=False)
class Sampling:
    """What values are computed with: the providers of a step, models, a sampler, and a seed for all randomness."""

    plan: RecipePlan
    step: StepPlan
    models: Mapping[str, nn.Module]
    device: torch.device
    sampler: Sampler | None
    seed: int

    def resolve(
        self, names: Sequence[str], fields: Iterable[str], sized: bool
    ) -> tuple[dict[str, ValuePlan], list[Problem]]:
        """The plan of the named values of a batch with these fields, and every name that fails.

        `sized`: whether the size of the images is known.
        """
        sampler = self.sampler is not None
        providers = self.step.providers
        world = World.of(fields, self.models, providers, sampler=sampler, image_size=sized, dataset="the batch")
        return resolve_values(world, [Request.of("the run", names, Place(self.plan.recipe.path))])

    def compute(
        self, names: Sequence[str], batch: Mapping[str, Any], image_size: tuple[int, int] | None
    ) -> dict[str, Any]:
        """The named values of a batch, without gradient; raises RunError for a name that nothing provides."""
        plan, problems = self.resolve(names, batch, image_size is not None)
        if problems:
            raise RunError(problems)
        draws = Draws(self.device)
        draws.at(self.seed, "draw")
        for model in self.models.values():
            model.eval()
        values = Values(plan, self.models, draws)
        values.begin(batch, step_batch=0, sampler=self.sampler, image_size=image_size)
        with torch.no_grad():
            return evaluate(values, names)
