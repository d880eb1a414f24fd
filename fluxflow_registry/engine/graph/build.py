"""What a builder builds: a model, an optimizer, a scheduler, a weigher, an open dataset."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from fluxflow_registry.errors import FluxflowError, Problem, TrainingError, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.registry.members import check_product


def build(configured: ConfiguredComponent, **arguments: Any) -> Any:
    """Call a component with those of the arguments that it needs; a failure names the component and its place."""
    needs = configured.component.signature.needs
    try:
        built = configured.instance(**{name: arguments[name] for name in needs})
        check_product(configured.component, built)
        return built
    except FluxflowError as error:
        if type(error).__init__ is not FluxflowError.__init__ or all(problem.where for problem in error.problems):
            raise
        raise type(error)([evolve(each, where=each.where or configured.where) for each in error.problems]) from error
    except Exception as error:
        message = f"{configured.component.kind} `{configured.name}` cannot be built: {one_line(error)}"
        notes = (("defined in", configured.definition),)
        problem = Problem(message, configured.where, notes, code="component-failed", subject=configured.label)
        raise TrainingError(problem) from error
