"""Evaluations: the metrics over held-out samples, with averaged weights."""

from __future__ import annotations

import torch

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.batches import Reader, to_device
from fluxflow_registry.engine.data.order import first_samples
from fluxflow_registry.engine.graph.metric_values import bind_metrics, metric_values, needed_values
from fluxflow_registry.engine.graph.randomness import Draws, derive
from fluxflow_registry.engine.graph.values import Values, evaluate
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.run.stopping import interruptible, raise_if_stopping
from fluxflow_registry.engine.training.step import LiveStep, size_of
from fluxflow_registry.plan.steps import EvaluationPlan


def measure(run: Run, live: LiveStep, plan: EvaluationPlan) -> dict[str, float]:
    """The mean of each metric over the evaluation's samples; the same samples and noise every time.

    Raises Interrupted if the run is asked to stop before the last batch.
    """
    settings = plan.settings
    source = run.data.sources[settings.dataset]
    count = min(settings.samples, len(source))
    models = live.evaluation_models()
    for model in models.values():
        model.eval()
    draws = Draws(run.device)
    values = Values(plan.values, models, draws, autocast=live.values.autocast)
    metrics = bind_metrics(plan)
    needed = needed_values(plan)
    sums: dict[str, float] = {}
    seed = derive(run.plan.recipe.seed, "evaluate", plan.name)
    order, spans = first_samples(source, count, settings.batch_size)
    reader = Reader(source, order, seed)
    sampler = interruptible(run.plan.solver, run)
    with torch.no_grad():
        for start, stop in spans:
            raise_if_stopping(run)
            read = reader.read(start, stop)
            run.data.report_replaced(settings.dataset, read, Position())
            batch = to_device(read.fields, run.device)
            size = size_of(batch) or live.context["image_size"]
            draws.at(seed, start)
            values.begin(batch, step_batch=0, sampler=sampler, image_size=size)
            evaluate(values, needed)
            results: dict[str, float] = {}
            for metric in metrics.values():
                arguments = values.arguments(metric, frozenset(), as_float=True)
                results.update(metric_values(plan, metric, arguments, live.plan.name, results))
            for name, result in results.items():
                sums[name] = sums.get(name, 0.0) + result * len(read.indices)
    return {name: total / count for name, total in sums.items()}
