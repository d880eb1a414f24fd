"""An observer that would never hear anything is refused when it is registered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.errors import PluginError
from fluxflow_registry.registry.observer_hooks import events
from fluxflow_registry.registry.registry import from_modules


class Misspelt:
    @hookimpl
    def step_endd(self, step: Any) -> None: ...


class Unmarked:
    def step_ended(self, step: Any) -> None: ...


class Asking:
    @hookimpl
    def step_ended(self, stepp: Any) -> None: ...


class Fine:
    @hookimpl
    def step_ended(self, step: Any, ending: Any) -> None: ...

    def helper(self, anything: Any) -> None: ...


def registered(observer: Any) -> Any:
    @hookimpl
    def fluxflow_register_observers(register: Any) -> None:
        register("mine", observer)

    return from_modules({"test": SimpleNamespace(fluxflow_register_observers=fluxflow_register_observers)})


@pytest.mark.parametrize(
    ("observer", "words"),
    [
        (Misspelt, r"(?s)observer `mine` listens for `step_endd`, which no run tells.*nearest +step_ended"),
        (Unmarked, r"`step_ended` of observer `mine` is not marked: put `@hookimpl` above it"),
        (Asking, r"(?s)`step_ended` of observer `mine` asks for `stepp`, which it is not told.*nearest +step\b"),
    ],
)
def test_an_observer_that_would_hear_nothing_is_refused_with_the_nearest_name(observer: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        registered(observer)

    assert "test_listening.py:" in str(caught.value)


def test_an_observer_takes_the_facts_it_wants_and_has_methods_of_its_own() -> None:
    assert registered(Fine).names("observer") == ["mine"]
    assert events()["step_ended"] == ["run", "step", "position", "ending"]
