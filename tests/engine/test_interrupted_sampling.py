"""A stop while an observer samples: the sampling is interrupted, and repeated when the run resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry

from ..small import FLOW, VAE_GAN
from .conftest import start
from .test_resume import finals

Checker = Callable[..., RecipePlan]

EVENTS = [
    "step_started",
    "epoch_started",
    "batch_ended",
    "metrics_logged",
    "evaluated",
    "epoch_ended",
    "step_ended",
    "run_ended",
]


class Samples:
    """Samples at an event, stops the run within the n-th sampling, and counts the samplings that were completed."""

    def __init__(self, event: str, stop_at: int | None) -> None:
        self.event, self.left, self.sampled = event, stop_at, 0

    def sample_at(self, event: str, run: Any) -> None:
        if event != self.event:
            return
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                run.engine.stopping = "SIGTERM"
        run.draw(["generated_image"], {"caption": ["a small red circle"], "image_size": (16, 16)})
        self.sampled += 1

    @hookimpl
    def step_started(self, run: Any) -> None:
        self.sample_at("step_started", run)

    @hookimpl
    def epoch_started(self, run: Any) -> None:
        self.sample_at("epoch_started", run)

    @hookimpl
    def batch_ended(self, run: Any) -> None:
        self.sample_at("batch_ended", run)

    @hookimpl
    def metrics_logged(self, run: Any) -> None:
        self.sample_at("metrics_logged", run)

    @hookimpl
    def evaluated(self, run: Any) -> None:
        self.sample_at("evaluated", run)

    @hookimpl
    def epoch_ended(self, run: Any) -> None:
        self.sample_at("epoch_ended", run)

    @hookimpl
    def step_ended(self, run: Any) -> None:
        self.sample_at("step_ended", run)

    @hookimpl
    def run_ended(self, run: Any) -> None:
        self.sample_at("run_ended", run)


@pytest.fixture(scope="module")
def straight(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Samples]]:
    """A run that nothing stops, with an observer that samples at each event."""
    root = tmp_path_factory.mktemp("straight")
    (root / "recipe.yaml").write_text(VAE_GAN + FLOW)
    observers = {event: Samples(event, None) for event in EVENTS}
    return start(check(root / "recipe.yaml", registry), root, [*observers.values()]).run, observers


@pytest.mark.parametrize("event", EVENTS)
def test_stopping_while_an_observer_samples_changes_nothing(
    checked: Checker, tmp_path: Path, straight: tuple[Run, dict[str, Samples]], event: str
) -> None:
    recipe = checked(VAE_GAN + FLOW)
    whole, observers = straight
    sampled = observers[event].sampled
    first, second = Samples(event, 1 if event == "run_ended" else 2), Samples(event, None)

    stopped = start(recipe, tmp_path / "cut", [first])
    again = start(recipe, tmp_path / "cut", [second]).run

    assert stopped.stopped is not None
    assert finals(again) == finals(whole)
    assert again.history.results == whole.history.results
    if event in ("batch_ended", "metrics_logged"):
        assert first.sampled + second.sampled == sampled - 1
    else:
        assert first.sampled + second.sampled >= sampled
