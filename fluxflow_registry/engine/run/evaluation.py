"""What is computed outside of training: metrics of an evaluation, and values for observers and for generation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import Tensor, nn

from fluxflow_registry.contracts import Position, Sampler
from fluxflow_registry.engine.data.batches import Reader, to_device
from fluxflow_registry.engine.data.declared import Declared
from fluxflow_registry.engine.data.order import first_samples
from fluxflow_registry.engine.graph.calls import PASSED_THROUGH, Binding, bind, describe, failed, wrong_return
from fluxflow_registry.engine.graph.randomness import Draws, derive
from fluxflow_registry.engine.graph.side_effects import unchanged
from fluxflow_registry.engine.graph.values import Values, evaluate
from fluxflow_registry.engine.run.stopping import interruptible, waiting
from fluxflow_registry.engine.training.step import LiveStep, size_of
from fluxflow_registry.errors import Place, Problem, RunError, TrainingError
from fluxflow_registry.plan.steps import EvaluationPlan, RecipePlan, StepPlan
from fluxflow_registry.plan.values import Request, ValuePlan, World, resolve_values

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.run import Run


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


def bind_metrics(plan: EvaluationPlan) -> list[Binding]:
    """How each metric of an evaluation is called."""
    return [bind(label, metric, plan.values) for label, metric in plan.metrics.items()]


def metric_title(plan: EvaluationPlan, label: str, step: str) -> str:
    """How messages call a metric."""
    return f"metric `{label}` of evaluation `{plan.name}` in step `{step}`"


def metric_values(
    plan: EvaluationPlan, metric: Binding, arguments: Mapping[str, Any], step: str, taken: Collection[str] = ()
) -> dict[str, float]:
    """What a metric returns for a batch, by the names that are logged; raises TrainingError with its place.

    A single tensor has the metric's label. A value of a mapping has its own name, or `<label>/<name>` where that name
    is the label of another metric, or is `taken` by an earlier one.
    """
    label = metric.name
    who = metric_title(plan, label, step)
    models = {name: value for name, value in arguments.items() if isinstance(value, nn.Module)}
    try:
        with unchanged(who, metric.component, arguments, models, training=False):
            found = metric.call(**arguments)
    except PASSED_THROUGH:
        raise
    except Exception as error:
        raise failed(who, metric, arguments, error, metric.component.where) from error
    if not isinstance(found, Mapping):
        return {label: _number(who, found, metric, arguments)}
    values: dict[str, float] = {}
    others = {*taken, *plan.metrics} - {label}
    for name, value in found.items():
        if not isinstance(name, str):
            raise _wrong(who, f"a mapping with a key of type {type(name).__name__}", metric, arguments)
        key = f"{label}/{name}" if name in others else name
        values[key] = _number(f"{who}, value `{name}`,", value, metric, arguments)
    return values


def _number(who: str, value: Any, metric: Binding, arguments: Mapping[str, Any]) -> float:
    """A 0-d tensor, or a number, as a float."""
    if isinstance(value, Tensor) and (value.ndim or value.is_complex()):
        what = "a complex tensor" if value.is_complex() else "a tensor"
        raise _wrong(who, f"{what} of shape {describe(value)}", metric, arguments)
    if not isinstance(value, (Tensor, Real)):
        raise _wrong(who, type(value).__name__, metric, arguments)
    return float(value)


def _wrong(who: str, returned: str, metric: Binding, arguments: Mapping[str, Any]) -> TrainingError:
    message = f"{who} returned {returned}; a metric must return a 0-d tensor, or a mapping of them"
    return wrong_return(message, metric, arguments, metric.name)


def measure(run: Run, live: LiveStep, plan: EvaluationPlan) -> dict[str, float]:
    """The mean of each metric over the evaluation's samples; the same samples and noise every time.

    Raises Interrupted if the run is asked to stop before the last batch.
    """
    dataset = plan.settings.dataset
    source = run.data.sources[dataset]
    count = min(plan.settings.samples, len(source))
    models = live.evaluation_models()
    for model in models.values():
        model.eval()
    values = Values(plan.values, models, Draws(run.device), autocast=live.values.autocast)
    metrics = bind_metrics(plan)
    needed = dict.fromkeys(name for metric in metrics for _, name in metric.values if name in values.bindings)
    sums: dict[str, float] = {}
    seed = derive(run.plan.recipe.seed, "evaluate", plan.name)
    order, spans = first_samples(source, count, plan.settings.batch_size)
    reader = Reader(source, order, seed, Declared(dataset, run.plan.fields(dataset)))
    sampler = interruptible(run.plan.solver, run)
    with torch.no_grad():
        for start, stop in spans:
            read = waiting(run, partial(reader.read, start, stop))
            run.data.report_replaced(dataset, read, Position())
            batch = to_device(read.fields, run.device)
            values.draws.at(seed, start)
            size = size_of(batch) or live.context["image_size"]
            values.begin(batch, step_batch=0, sampler=sampler, image_size=size)
            evaluate(values, needed)
            results: dict[str, float] = {}
            for metric in metrics:
                arguments = values.arguments(metric, frozenset(), as_float=True)
                results.update(metric_values(plan, metric, arguments, live.plan.name, results))
            for name, result in results.items():
                sums[name] = sums.get(name, 0.0) + result * len(read.indices)
    return {name: total / count for name, total in sums.items()}
