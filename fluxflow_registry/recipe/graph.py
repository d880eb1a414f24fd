"""The steps as a graph: each starts from the state in which its parent ended."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.errors import Problem, choices
from fluxflow_registry.recipe.schema import StepEntry


def order(steps: Mapping[str, StepEntry]) -> tuple[list[str], list[Problem]]:
    """The steps in an order in which parents come first (the file's, where it is one), and what is wrong.

    Unknown parents, cycles, and steps that can only be reached through either are reported.
    """
    problems = [
        Problem(
            f"step `{name}` comes after `{step.parent}`, which is no step",
            step.node.at("after"),
            choices(step.parent, steps, "steps"),
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
        if chain[-1] in chain[:-1]:
            if name == min(chain[chain.index(chain[-1]) :]):
                loop = " -> ".join(chain[chain.index(chain[-1]) :])
                problems.append(Problem(f"steps wait for each other: {loop}", steps[name].node.at("after")))
            elif name not in chain[chain.index(chain[-1]) :]:
                message = f"step `{name}` can never begin: it waits for `{chain[1]}`"
                problems.append(Problem(message, steps[name].where))
        elif len(chain) > 2:
            message = f"step `{name}` can never begin: it waits for `{chain[-2]}`"
            problems.append(Problem(message, steps[name].where))
    return done, problems


def _ancestors(steps: Mapping[str, StepEntry], name: str) -> list[str]:
    """The step, its parent, its parent's parent ... to an unknown name or to the first repetition."""
    chain = [name]
    while (parent := steps[chain[-1]].parent) is not None:
        chain.append(parent)
        if parent in chain[:-1] or parent not in steps:
            break
    return chain
