"""Metrics before training: each is computed once, over a real batch and values that have only their shapes right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.check.metric_names import unmeasured
from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.order import first_samples
from fluxflow_registry.engine.graph.broadcasting import compared_alike
from fluxflow_registry.engine.graph.calls import Binding, map_tensors, read_numbers
from fluxflow_registry.engine.graph.randomness import Draws, derive
from fluxflow_registry.engine.graph.values import Instance, Values, evaluate
from fluxflow_registry.engine.preflight.shapes import META, on_meta
from fluxflow_registry.engine.run.evaluation import bind_metrics, metric_title, metric_values
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError, unique
from fluxflow_registry.plan.steps import EvaluationPlan, RecipePlan, StepPlan

CPU = torch.device("cpu")

#: Samples of the batch: enough that one number for each sample is not taken for a single number.
SAMPLES = 2


def try_metrics(plan: RecipePlan, sources: Mapping[str, Source], models: Mapping[str, nn.Module]) -> None:
    """Compute every metric once; raises RecipeError with what fails or does not return numbers.

    A metric may read numbers, so it is not proven on the meta device. It receives what the dataset has, and for each
    value random numbers in [0, 1), in the shape that follows from the models, which are on that device. Metrics that
    need a model, and values that have no shape without numbers, are left to the first evaluation.
    """
    problems: list[Problem] = []
    for step in plan.steps:
        known: dict[str, set[str] | None] = {}
        for name, evaluation in step.evaluations.items():
            source = sources[evaluation.settings.dataset]
            known[name], found = _try(plan, step, evaluation, source, models)
            problems += found
        problems += unmeasured(step, known)
    if problems:
        raise RecipeError(unique(problems))


def _try(
    plan: RecipePlan, step: StepPlan, evaluation: EvaluationPlan, source: Source, models: Mapping[str, nn.Module]
) -> tuple[set[str] | None, list[Problem]]:
    """The names of what an evaluation measures, None where they are not known yet, and what is wrong with it."""
    settings = evaluation.settings
    order, spans = first_samples(source, min(settings.samples, len(source)), min(SAMPLES, settings.batch_size))
    place = max(spans, key=lambda span: span[1] - span[0])  # the last batch of a bucket may be smaller
    seed = derive(plan.recipe.seed, "evaluate", evaluation.name)
    batch = Reader(source, order, seed).read(*place).fields
    shapes, values = (Values(evaluation.values, models, Draws(device)) for device in (META, CPU))
    size = size_of(batch) or step.image_size
    for each, fields in ((shapes, map_tensors(on_meta, dict(batch))), (values, batch)):
        each.begin(fields, step_batch=0, sampler=plan.solver, image_size=size)
    numbers = torch.Generator().manual_seed(0)
    names: dict[str, float] = {}
    problems: list[Problem] = []
    complete = True
    for metric in bind_metrics(evaluation):
        try:
            arguments = _arguments(metric, shapes, values, numbers)
            if arguments is not None:
                who = metric_title(evaluation, metric.name, step.name)
                inputs = [(source, arguments[parameter]) for parameter, source in metric.values]
                with torch.no_grad(), compared_alike(who, metric.component, inputs):
                    names |= metric_values(evaluation, metric, arguments, step.name, names)
            complete = complete and arguments is not None
        except FluxflowError as error:
            problems += error.problems
            complete = False
    return set(names) if complete else None, problems


def _arguments(metric: Binding, shapes: Values, values: Values, numbers: torch.Generator) -> dict[str, Any] | None:
    """What a metric receives: a real batch, and random numbers for its values; None where that needs a model to run.

    Raises FluxflowError where a value of it cannot be computed from shapes.
    """

    def random(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.rand(tensor.shape, generator=numbers).to(tensor.dtype)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    if metric.models:
        return None
    try:
        needed = evaluate(shapes, [name for _, name in metric.values if name not in values.kept])
    except FluxflowError as error:
        if read_numbers(error):
            return None
        raise
    for name, value in needed.items():
        values.kept[name] = Instance(map_tensors(random, value))
    return values.arguments(metric, frozenset(), as_float=True)
