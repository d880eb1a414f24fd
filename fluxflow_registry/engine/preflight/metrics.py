"""Metrics before training: each is computed once, over a real batch whose values are proven in shape alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.check.checker import CheckedStep, EvaluationPlan, RecipePlan
from fluxflow_registry.check.metric_names import unmeasured
from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.order import first_samples
from fluxflow_registry.engine.graph.metric_values import bound, figures_of
from fluxflow_registry.engine.graph.randomness import Draws, derive
from fluxflow_registry.engine.graph.tensors import map_tensors
from fluxflow_registry.engine.graph.values import Binding, Instance, Values, evaluate
from fluxflow_registry.engine.models.build import build_model
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError
from fluxflow_registry.recipe.load import unique

META, CPU = torch.device("meta"), torch.device("cpu")

#: Samples of the batch: enough that one figure for each sample is not taken for one figure.
SAMPLES = 2


def rehearse_metrics(checked: RecipePlan, sources: Mapping[str, Source]) -> None:
    """Compute every metric once; raises RecipeError with what fails or is no figure.

    A metric may look at numbers, so it is not proven on the meta device. It is given what the dataset has, and for
    each value numbers at random in [0, 1), in the shape that follows from the models: no model computes anything.
    Metrics that ask for a model, and values that have no shape without numbers, are left to the first evaluation.
    """
    with META:
        models = {name: build_model(model) for name, model in checked.models.items()}
    problems: list[Problem] = []
    for step in checked.steps:
        known: dict[str, set[str] | None] = {}
        for name, evaluation in step.evaluations.items():
            source = sources[evaluation.evaluation.settings.dataset]
            known[name], found = _rehearse(checked, step, evaluation, source, models)
            problems += found
        problems += unmeasured(step, known)
    if problems:
        raise RecipeError(unique(problems))


def _rehearse(
    checked: RecipePlan, step: CheckedStep, evaluation: EvaluationPlan, source: Source, models: Mapping[str, nn.Module]
) -> tuple[set[str] | None, list[Problem]]:
    """The names of an evaluation's figures, None where they are not known yet, and what is wrong with its metrics."""
    settings = evaluation.evaluation.settings
    order, spans = first_samples(source, min(settings.samples, len(source)), min(SAMPLES, settings.batch_size))
    place = max(spans, key=lambda span: span[1] - span[0])  # the last batch of a bucket may be smaller
    seed = derive(checked.recipe.seed, "evaluate", evaluation.evaluation.name)
    batch = Reader(source, order, seed).read(*place).fields
    given = Rehearsal(checked, step, evaluation, batch, models)
    names: dict[str, float] = {}
    problems: list[Problem] = []
    whole = True
    for metric in bound(evaluation).values():
        try:
            arguments = given.arguments(metric)
            if arguments is not None:
                with torch.no_grad():
                    names |= figures_of(evaluation, metric, arguments, step.name, names)
            whole = whole and arguments is not None
        except FluxflowError as error:
            problems += error.problems
            whole = False
    return set(names) if whole else None, problems


class Rehearsal:
    """What the metrics of one evaluation are given: a real batch, and numbers at random for its values."""

    def __init__(
        self,
        checked: RecipePlan,
        step: CheckedStep,
        evaluation: EvaluationPlan,
        batch: Mapping[str, Any],
        models: Mapping[str, nn.Module],
    ) -> None:
        shape = step.fields["image"].shape if "image" in step.fields else None
        size = size_of(batch) or (shape[-2:] if shape else None)
        self.shapes = Values(evaluation.values, step.providers, models, Draws(META))
        self.given = Values(evaluation.values, step.providers, models, Draws(CPU))
        for values, fields in ((self.shapes, map_tensors(_bare, dict(batch))), (self.given, batch)):
            values.begin(fields, step_batch=0, sampler=checked.solver, image_size=size)
        self.numbers = torch.Generator().manual_seed(0)

    def arguments(self, metric: Binding) -> dict[str, Any] | None:
        """What a metric is given; None where that cannot be had without a model at work.

        Raises FluxflowError where a value of it cannot be computed from shapes.
        """
        if metric.models:
            return None
        needed = [name for _, name in metric.values if name not in self.given.kept]
        try:
            shapes = evaluate(self.shapes, needed)
        except FluxflowError as error:
            if "meta" in str(error):  # a number was asked for
                return None
            raise
        for name, value in shapes.items():
            self.given.kept[name] = Instance(map_tensors(self._filled, value))
        return self.given.arguments(metric, frozenset(), as_float=True)

    def _filled(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.rand(tensor.shape, generator=self.numbers).to(tensor.dtype)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _bare(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device=META)
