"""Whether an observer will be notified: its hooks against the events of a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pluggy

from fluxflow_registry.contracts import Lifecycle
from fluxflow_registry.errors import Choices, Problem
from fluxflow_registry.registry.signature import definition


def events() -> dict[str, list[str]]:
    """Each event of a run and its arguments."""
    found = {name: event for name, event in vars(Lifecycle).items() if inspect.isfunction(event)}
    return {name: list(inspect.signature(event).parameters)[1:] for name, event in found.items()}


def hook_problems(observer: Any, what: str) -> Iterator[Problem]:
    """Hooks of an observer that are not events, that are not marked, or whose parameters an event does not have."""
    manager = pluggy.PluginManager("fluxflow")
    known = events()
    for name, method in inspect.getmembers(observer, inspect.isfunction):
        marked = manager.parse_hookimpl_opts(observer, name) is not None
        where, text = definition(method)
        if marked and name not in known:
            message = f"hook `{name}` of {what} is not an event of a run"
            yield Problem(message, where, code="unknown-hook", subject=name, choices=Choices.of(name, known))
        elif not marked and name in known:
            message = f"`{name}` of {what} is not marked as a hook: put `@hookimpl` above it"
            yield Problem(message, where, code="unmarked-hook", subject=name)
        for need in list(inspect.signature(method).parameters)[1:] if marked and name in known else ():
            if need not in known[name]:
                message = f"hook `{name}` of {what} requests `{need}`, which the event does not have"
                notes = (("defined in", f"{where}  {text}"),)
                choices = Choices.of(need, known[name])
                yield Problem(message, where, notes, code="wrong-parameters", subject=need, choices=choices)
