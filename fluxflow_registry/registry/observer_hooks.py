"""Whether an observer will hear what it listens for: its hooks against the events of a run."""

from __future__ import annotations

import inspect
from typing import Any

import pluggy

from fluxflow_registry.contracts import Lifecycle
from fluxflow_registry.errors import Problem, choices
from fluxflow_registry.registry.signature import definition


def events() -> dict[str, list[str]]:
    """Each event of a run and the facts that it tells."""
    found = {name: event for name, event in vars(Lifecycle).items() if inspect.isfunction(event)}
    return {name: list(inspect.signature(event).parameters)[1:] for name, event in found.items()}


def listener_problems(observer: Any, what: str) -> list[Problem]:
    """Hooks of an observer that no event calls, that are not marked, or that ask for what is not told."""
    manager = pluggy.PluginManager("fluxflow")
    known = events()
    problems = []
    for name, method in inspect.getmembers(observer, inspect.isfunction):
        marked = manager.parse_hookimpl_opts(observer, name) is not None
        where, text = definition(method)
        if marked and name not in known:
            problems.append(
                Problem(f"{what} listens for `{name}`, which no run tells", where, choices(name, known, "events"))
            )
        elif not marked and name in known:
            problems.append(Problem(f"`{name}` of {what} is not marked: put `@hookimpl` above it", where))
        elif marked:
            for need in list(inspect.signature(method).parameters)[1:]:
                if need not in known[name]:
                    notes = (("defined as", text), *choices(need, known[name], "told"))
                    problems.append(
                        Problem(f"`{name}` of {what} asks for `{need}`, which it is not told", where, notes)
                    )
    return problems
