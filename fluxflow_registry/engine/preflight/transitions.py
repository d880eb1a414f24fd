"""Transitions before training: each is called once, after an epoch of metrics that are all 1."""

from __future__ import annotations

from collections.abc import Sequence

from fluxflow_registry.contracts import Summary
from fluxflow_registry.engine.training.step import ending_by
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError, unique
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.plan.updates import WhenMet


class _Ones(dict[str, Sequence[Summary]]):
    """A history of one epoch that has every metric."""

    def __missing__(self, name: str) -> Sequence[Summary]:
        return [Summary(1.0, 1.0, 1.0, 1.0)]


def try_transitions(plan: RecipePlan) -> None:
    """Call the transitions of every step; raises RecipeError with those that fail or return something else."""
    problems: list[Problem] = []
    for step in plan.steps:
        starts = [start for update in step.updates.values() for start in update.starts.values()]
        conditions = [start.condition for start in starts if isinstance(start, WhenMet)]
        for transition in [*([step.until] if step.until else []), *conditions]:
            names = [*(f"{update}_loss" for update in step.updates), *transition.watched_metrics()]
            history = _Ones({name: _Ones()[name] for name in names})
            try:
                ending_by(transition, 1, step.settings.epochs, history)
            except FluxflowError as error:
                problems += error.problems
    if problems:
        raise RecipeError(unique(problems))
