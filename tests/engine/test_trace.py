"""The trace of a shortened run has what its transitions return and keep, so that unsaved state is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from attrs import define, field

from fluxflow_registry import Ending
from fluxflow_registry.cli.prove_resume import Difference, blame, first_difference
from fluxflow_registry.engine.diagnosis.proof import Trace, fingerprint, shortened
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..small import PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import StopAfter, start

Checker = Callable[..., RecipePlan]

STEP = "steps.vae_gan"


@define
class Counter:
    """Ends a step after a number of calls, and does not save the count."""

    calls_max: int = 3
    calls: int = field(init=False, default=0)

    def __call__(self, epoch: int) -> Ending | None:
        self.calls += 1
        return Ending(f"called {self.calls} times") if self.calls >= self.calls_max else None


@define
class Keeping(Counter):
    """The same, but it saves what it keeps."""

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


@define
class Forgetful(Keeping):
    """It saves only a part of what it keeps."""

    epochs: list[int] = field(init=False, factory=list)

    def __call__(self, epoch: int) -> Ending | None:
        self.epochs.append(epoch)
        return Keeping.__call__(self, epoch)


def hidden(calls_max: int) -> Callable[[], Any]:
    """Builds a transition without attributes: its state is in a closure."""

    def make() -> Any:
        calls: list[int] = []

        @define
        class Secret:
            """Keeps a list that nothing shows."""

            def __call__(self, epoch: int) -> Ending | None:
                calls.append(epoch)
                return Ending("enough") if len(calls) >= calls_max else None

        return Secret

    return make


def using(transition: type) -> Registry:
    registry = load(PLUGINS)
    add_plugin(registry, Plugin("counting", "test", "1", "here"), plugin(transitions={"counter": transition}))
    return registry


@pytest.fixture
def differs(checked: Checker, tmp_path: Path) -> Callable[..., tuple[RecipePlan, Difference | None]]:
    """The first difference between a shortened run that is stopped after a batch and one that is not."""

    def run(make: Callable[[], type], stop: int, *settings: str) -> tuple[RecipePlan, Difference | None]:
        def cut_short(folder: str, *observers: Any) -> None:
            recipe = shortened(checked(VAE_GAN, *settings, using=using(make())))
            trace = tmp_path / folder / "trace.jsonl"
            trace.parent.mkdir(exist_ok=True)
            start(recipe, tmp_path / folder / "runs", [Trace(trace), *observers])

        cut_short("straight")
        cut_short("killed", StopAfter("batch_ended", stop))
        cut_short("killed")
        difference = first_difference(tmp_path / "straight", tmp_path / "killed")
        return checked(VAE_GAN, *settings, using=using(make())), difference

    return run


def until(calls: int) -> str:
    return f"{STEP}.until={{type: counter, calls_max: {calls}}}"


@pytest.mark.parametrize("calls_max", [2, 3, 4, 100])
def test_a_transition_that_does_not_save_its_count_is_named(differs: Any, calls_max: int) -> None:
    recipe, difference = differs(lambda: Counter, 3, until(calls_max))

    assert difference is not None
    assert (difference.what, difference.step, difference.batch) == ("transition until", "vae_gan", 4)
    words = "\n".join(blame(recipe, difference))
    first = "what transition `counter` " + ("returns after the epoch" if calls_max == 2 else "keeps in `calls`")
    assert f"first       {first}\n" in words
    assert "component   transition `counter`\n" in words
    assert "keeps state outside checkpoints" in words


def test_a_transition_that_saves_its_count_passes(differs: Any) -> None:
    _, difference = differs(lambda: Keeping, 3, until(4))

    assert difference is None


def test_a_transition_that_saves_only_a_part_of_its_state_is_named(differs: Any) -> None:
    recipe, difference = differs(lambda: Forgetful, 3, until(100))

    assert "what transition `counter` keeps in `epochs`" in "\n".join(blame(recipe, difference))


@pytest.mark.parametrize("calls_max", [2, 3])
def test_a_transition_with_state_outside_of_itself_is_named_by_what_it_returns(differs: Any, calls_max: int) -> None:
    _, difference = differs(hidden(calls_max), 3, f"{STEP}.until=counter")

    assert difference is not None
    assert (difference.kind, difference.name) == ("returned", "until")


def test_the_condition_of_a_late_start_is_traced_too(differs: Any) -> None:
    start_by = f"{STEP}.updates.vae.losses.hinge_generator.start={{type: counter, calls_max: 100}}"

    recipe, difference = differs(lambda: Counter, 3, start_by)

    assert difference is not None
    assert (difference.kind, difference.name) == ("kept", "start.vae.hinge_generator.calls")
    assert "component   transition `counter`" in "\n".join(blame(recipe, difference))


def test_equal_attributes_have_the_same_fingerprint_in_every_process() -> None:
    class Holds:
        __slots__ = ("bound", "choice", "deep", "generator", "numbers", "self_", "tensor", "unset")

        def __init__(self, numbers: Any) -> None:
            self.numbers, self.deep, self.bound = numbers, {"b": [1.5], "a": {3, 1, 2}}, self.method
            self.tensor, self.generator = torch.arange(3), torch.Generator().manual_seed(1)
            self.choice, self.self_ = Random(3), self

        def method(self) -> None: ...

    one, other = fingerprint(Holds([1, 2])), fingerprint(Holds((1, 2)))

    assert one == other
    assert not any(" at 0x" in text for text in one.values())
    assert one["deep"] == "{'a': {1, 2, 3}, 'b': (1.5)}"
    assert "unset" not in one


@pytest.mark.parametrize("moved", ["generator", "choice", "numbers", "tensor"])
def test_a_changed_attribute_changes_the_fingerprint(moved: str) -> None:
    class Holds:
        def __init__(self) -> None:
            self.generator, self.choice = torch.Generator().manual_seed(1), Random(3)
            self.numbers, self.tensor = {"a": [1]}, torch.zeros(2)

    holds = Holds()
    before = fingerprint(holds)

    torch.rand((), generator=holds.generator) if moved == "generator" else None
    holds.choice.random() if moved == "choice" else None
    holds.numbers["a"].append(2) if moved == "numbers" else None
    holds.tensor.add_(1) if moved == "tensor" else None

    after = fingerprint(holds)
    assert {name for name in after if after[name] != before[name]} == {moved}
