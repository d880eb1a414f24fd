"""What observers will draw, before training: each of their values is computed once, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from fluxflow_registry.contracts import Draw, ObserverExtras, Source
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.order import first_bucket
from fluxflow_registry.engine.graph.calls import map_tensors, read_numbers
from fluxflow_registry.engine.preflight.shapes import META, example, on_meta
from fluxflow_registry.engine.run.evaluation import Sampling
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError, unique
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan

#: Samples of a batch.
SAMPLES = 2


def try_draws(plan: RecipePlan, sources: Mapping[str, Source], models: Mapping[str, nn.Module]) -> None:
    """Compute what observers declare that they will draw; raises RecipeError with what fails.

    Values that read numbers are left to training.
    """
    problems: list[Problem] = []
    for observer in plan.observers.values():
        for draw in ObserverExtras.of(observer.instance).draws():
            batch = None if draw.dataset is None else _first_samples(sources[draw.dataset])
            for step in plan.steps:
                if not draw.steps or step.name in draw.steps:
                    problems += _problems(plan, step, observer, draw, models, batch)
    if problems:
        raise RecipeError(unique(problems))


def _first_samples(source: Source) -> dict[str, Any]:
    order = first_bucket(source)
    fields = Reader(source, order, 0).read(0, min(SAMPLES, len(order))).fields
    return {name: map_tensors(on_meta, field) for name, field in fields.items()}


def _problems(
    plan: RecipePlan,
    step: StepPlan,
    observer: ConfiguredComponent,
    draw: Draw,
    models: Mapping[str, nn.Module],
    batch: dict[str, Any] | None,
) -> Iterator[Problem]:
    """What fails of a draw in a step."""
    if batch is None:
        all_fields = {name: field for label in plan.datasets for name, field in plan.fields(label).items()}
        declared = {**all_fields, **step.fields}
        batch = example({name: declared[name] for name in draw.fields if name in declared}, SAMPLES, META)
    size = size_of(batch) or step.image_size
    sampling = Sampling(plan, step, models, META, plan.solver, plan.recipe.seed)
    for value in (*draw.values, *draw.optional):
        if sampling.resolve([value], batch, size is not None)[1]:
            continue  # those of `values` are reported with the plan; an optional one is left out
        try:
            sampling.compute([value], batch, size)
        except FluxflowError as error:
            if read_numbers(error):
                continue
            for problem in error.problems:
                message = f"observer `{observer.label}` draws `{value}` in step `{step.name}`: {problem.message}"
                yield Problem(message, observer.place_of(value), problem.notes, code=problem.code, subject=value)
