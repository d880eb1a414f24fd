"""An observer that would never be notified is rejected when it is registered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.errors import PluginError
from fluxflow_registry.registry.discovery import from_modules
from fluxflow_registry.registry.members import events


class Misspelled:
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
        (Misspelled, r"(?s)hook `step_endd` of observer `mine` is not an event of a run.*nearest +step_ended"),
        (Unmarked, r"`step_ended` of observer `mine` is not marked as a hook: put `@hookimpl` above it"),
        (
            Asking,
            r"(?s)hook `step_ended` of observer `mine` requests `stepp`, which the event.*nearest +step\b",
        ),
    ],
)
def test_an_observer_that_would_not_be_notified_is_rejected_with_the_nearest_name(observer: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        registered(observer)

    assert "test_listening.py:" in str(caught.value)


def test_an_observer_takes_the_arguments_it_needs_and_has_methods_of_its_own() -> None:
    assert registered(Fine).names("observer") == ["mine"]
    assert events()["step_ended"] == ["run", "step", "position", "ending"]
