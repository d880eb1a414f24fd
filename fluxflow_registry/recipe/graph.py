"""The steps as a graph: each starts from the state in which its parent ended."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.errors import Choices, Problem
from fluxflow_registry.recipe.schema import StepEntry


def order(steps: Mapping[str, StepEntry]) -> tuple[list[str], list[Problem]]:
    """The steps with parents first, in the order of the file where that is possible, and every problem.

    Unknown parents, cycles, and steps that can only be reached through either are reported.
    """
    problems = [
        Problem(
            f"step `{name}` starts after `{step.parent}`, but the recipe has no such step",
            step.node.at("after"),
            code="unknown-name",
            subject=step.parent,
            choices=Choices.of(step.parent, steps),
        )
        for name, step in steps.items()
        if step.parent is not None and step.parent not in steps
    ]
    done: list[str] = []
    waiting = list(steps)
    while ready := [n for n in waiting if steps[n].parent is None or steps[n].parent in done]:
        done.append(ready[0])
        waiting.remove(ready[0])
    for name in waiting:
        chain = _ancestors(steps, name)
        cycle = chain[chain.index(chain[-1]) :]
        if len(cycle) > 1 and name == min(cycle):
            message, where = f"steps wait for each other: {' -> '.join(cycle)}", steps[name].node.at("after")
            problems.append(Problem(message, where, code="cycle", subject=name))
        elif name not in cycle and len(chain) > 2:
            blocker = chain[1] if len(cycle) > 1 else chain[-2]
            message = f"step `{name}` can never start: it waits for step `{blocker}`"
            problems.append(Problem(message, steps[name].where, code="not-reached", subject=name))
    return done, problems


def _ancestors(steps: Mapping[str, StepEntry], name: str) -> list[str]:
    """The step, its parent, its parent's parent ... to an unknown name or to the first repetition."""
    chain = [name]
    while (parent := steps[chain[-1]].parent) is not None:
        chain.append(parent)
        if parent in chain[:-1] or parent not in steps:
            break
    return chain
