"""The figures of one metric over one batch: what it gives, held against what a metric is, under their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from fluxflow_registry.check.checker import ConfiguredComponent, EvaluationPlan
from fluxflow_registry.engine.graph.tensors import describe
from fluxflow_registry.engine.graph.values import Binding, bind, failed
from fluxflow_registry.engine.run.stopping import Interrupted
from fluxflow_registry.errors import FluxflowError, Problem, TrainingError


def bound(checked: EvaluationPlan) -> dict[str, Binding]:
    """How each metric of an evaluation is called, by its label."""
    return {
        label: bind(label, m.provider.needs, m.instance, checked.values, m.component.signature.where)
        for label, m in checked.metrics.items()
    }


def wanted(checked: EvaluationPlan) -> list[str]:
    """The values that the metrics of an evaluation ask for, each once."""
    needed = dict.fromkeys(need for metric in checked.metrics.values() for need in metric.provider.needs.values())
    return [name for name in needed if checked.values[name].source == "value"]


def figures_of(
    checked: EvaluationPlan, metric: Binding, arguments: Mapping[str, Any], step: str, taken: Collection[str] = ()
) -> dict[str, float]:
    """What a metric gives for a batch, by the names under which it is logged; raises TrainingError with its place.

    One tensor has the metric's label. A figure of a dict has its own name, or `<label>/<name>` where that name is
    the label of another metric, or is `taken` by an earlier one.
    """
    label = metric.name
    configured = checked.metrics[label]
    who = f"metric `{label}` of evaluation `{checked.evaluation.name}` in step `{step}`"
    try:
        found = metric.call(**arguments)
    except (torch.OutOfMemoryError, FluxflowError, Interrupted):
        raise
    except Exception as error:
        (problem,) = failed("metric", metric, arguments, error).problems
        told = problem.message.replace(f"metric `{label}`", who, 1)
        raise TrainingError(evolve(problem, message=told, where=configured.where)) from error
    if not isinstance(found, dict):
        return {label: _number(who, found, configured, arguments)}
    figures: dict[str, float] = {}
    others = {*taken, *checked.metrics} - {label}
    for name, value in found.items():
        if not isinstance(name, str):
            raise _refused(who, f"a dict with a key of type {type(name).__name__}", configured, arguments)
        figures[f"{label}/{name}" if name in others else name] = _number(
            f"{who}, figure `{name}`,", value, configured, arguments
        )
    return figures


def _number(who: str, value: Any, configured: ConfiguredComponent, arguments: Mapping[str, Any]) -> float:
    """A 0-d tensor, or a number, as a float."""
    if isinstance(value, Tensor):
        if value.ndim or value.is_complex():
            what = "a complex tensor" if value.is_complex() else "a tensor"
            raise _refused(who, f"{what} of shape {describe(value)}", configured, arguments)
    elif not isinstance(value, Real):
        raise _refused(who, type(value).__name__, configured, arguments)
    return float(value)


def _refused(who: str, found: str, configured: ConfiguredComponent, arguments: Mapping[str, Any]) -> TrainingError:
    given = tuple((f"given {name}", describe(value)) for name, value in arguments.items())
    notes = (("defined in", str(configured.component.signature.where)), *given)
    return TrainingError(
        Problem(f"{who} gives {found}; a metric is a 0-d tensor, or a dict of them", configured.where, notes)
    )
