"""The trace of a shortened run has what its transitions return and keep, so that unsaved state is found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define, field, frozen
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fluxflow_registry import Ending
from fluxflow_registry.cli.prove_resume import Difference, blame, first_difference
from fluxflow_registry.engine.diagnosis.proof import Trace, fingerprint, shortened
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry
from fluxflow_vae.models import CompressorBuilder

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


#: A state that no attribute shows.
COUNT = count()


class Counts(nn.Module):
    """Adds noise that shrinks from call to call: a count that no checkpoint has, as an attribute or a buffer."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how
        self.calls: Any = [0] if how == "list" else np.random.default_rng(0) if how == "generator" else 0
        self.register_buffer("seen", torch.zeros(()), persistent=how == "persistent buffer")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    seen: torch.Tensor

    def forward(self, image: torch.Tensor) -> Any:
        if self.how == "generator":
            return self.inner(image * float(1 + 0.01 * self.calls.random()))
        if self.how == "closure":
            return self.inner(image * (1 + 0.01 * next(COUNT)))
        if self.how == "list":
            self.calls[0] += 1
            return self.inner(image * (1 + 0.01 * self.calls[0]))
        if self.how == "number":
            self.calls += 1
            return self.inner(image * (1 + 0.01 * self.calls))
        self.seen += 1
        return self.inner(image * (1 + 0.01 * float(self.seen)))


class Hiding(LRScheduler):
    """A schedule whose count of intervals is in no state dict."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.hidden = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        self.hidden += 1
        return [rate * 0.9**self.hidden for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}


@frozen
class HidingBuilder:
    """Builds a schedule that forgets where it is."""

    interval: str = "batch"

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return Hiding(optimizer)


@frozen
class CountingCompressor:
    """A compressor that counts its calls."""

    how: str = "number"

    def __call__(self) -> nn.Module:
        return Counts(CompressorBuilder(latent_channels=2, width=8)(), self.how)


@define
class Calling:
    """A value that counts, and that calls a model which does not."""

    calls: int = field(init=False, default=0)

    def __call__(self, latent: torch.Tensor, expander: nn.Module) -> Any:
        self.calls += 1
        return expander(latent) * (1 + 0.01 * self.calls)


@pytest.fixture
def first(checked: Checker, tmp_path: Path) -> Callable[..., tuple[RecipePlan, Difference | None]]:
    """The first difference between a stopped run and another one, with components made up for it."""

    def run(stop: int, *settings: str) -> tuple[RecipePlan, Difference | None]:
        registry = load(PLUGINS)
        made_up = plugin(
            models={"counting": CountingCompressor}, schedulers={"hiding": HidingBuilder}, values={"calling": Calling}
        )
        add_plugin(registry, Plugin("hiding", "test", "1", "here"), made_up)
        plan = checked(VAE_GAN, *settings, using=registry)
        for folder, observers in (("straight", ()), ("killed", (StopAfter("batch_ended", stop),)), ("killed", ())):
            trace = tmp_path / folder / "trace.jsonl"
            trace.parent.mkdir(exist_ok=True)
            start(shortened(plan), tmp_path / folder / "runs", [Trace(trace), *observers])
        return plan, first_difference(tmp_path / "straight", tmp_path / "killed")

    return run


@pytest.mark.parametrize("how", ["number", "list", "buffer", "generator", "closure"])
def test_a_model_that_counts_its_calls_is_named_and_not_the_value_that_calls_it(first: Any, how: str) -> None:
    plan, difference = first(3, f"models.compressor={{type: counting, how: {how}}}")

    assert difference is not None
    assert (difference.kind, difference.name) == ("value", "posterior")
    words = "\n".join(blame(plan, difference))
    kept = "seen" if how == "buffer" else "calls"
    why = ", from the same inputs" if how == "closure" else f": its `{kept}` differs"
    assert f"first       value `posterior`, which calls model `compressor`{why}\n" in words
    assert "component   model `counting`\n" in words
    assert "register_buffer" in words


def test_a_model_that_counts_in_a_buffer_of_its_state_passes(first: Any) -> None:
    _, difference = first(3, "models.compressor={type: counting, how: persistent buffer}")

    assert difference is None


def test_a_value_that_calls_an_innocent_model_is_named_itself(first: Any) -> None:
    plan, difference = first(
        3, "values={calling: {}}", f"{STEP}.updates.vae.losses.l1={{with: {{reconstruction: calling}}}}"
    )

    words = "\n".join(blame(plan, difference))
    assert "first       value `calling`, from the same inputs\n" in words
    assert "component   value `calling`\n" in words
    assert "which it calls" not in words


@pytest.mark.parametrize("interval", ["batch", "epoch"])
def test_a_scheduler_that_forgets_is_named_and_not_the_optimizer(first: Any, interval: str) -> None:
    plan, difference = first(3, f"{STEP}.updates.vae.scheduler={{type: hiding, interval: {interval}}}")

    assert difference is not None
    words = "\n".join(blame(plan, difference))
    assert "first       the learning rate of update `vae`\n" in words
    assert "component   scheduler `hiding`\n" in words


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
