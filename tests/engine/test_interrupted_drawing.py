"""A stop in the middle of drawing: the drawing is broken off, the run loses nothing, and it is drawn again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.plan.steps import RecipePlan

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


class Draws:
    """Draws at an event, is asked to stop within the n-th drawing, and counts the drawings that came to an end."""

    def __init__(self, event: str, stop_at: int | None) -> None:
        self.event, self.left, self.drawn = event, stop_at, 0

    def heard(self, event: str, run: Any) -> None:
        if event != self.event:
            return
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                run.engine.stopping = "SIGTERM"
        run.draw(["generated_image"], {"caption": ["a small red circle"], "image_size": (16, 16)})
        self.drawn += 1

    @hookimpl
    def step_started(self, run: Any) -> None:
        self.heard("step_started", run)

    @hookimpl
    def epoch_started(self, run: Any) -> None:
        self.heard("epoch_started", run)

    @hookimpl
    def batch_ended(self, run: Any) -> None:
        self.heard("batch_ended", run)

    @hookimpl
    def metrics_logged(self, run: Any) -> None:
        self.heard("metrics_logged", run)

    @hookimpl
    def evaluated(self, run: Any) -> None:
        self.heard("evaluated", run)

    @hookimpl
    def epoch_ended(self, run: Any) -> None:
        self.heard("epoch_ended", run)

    @hookimpl
    def step_ended(self, run: Any) -> None:
        self.heard("step_ended", run)

    @hookimpl
    def run_ended(self, run: Any) -> None:
        self.heard("run_ended", run)


@pytest.mark.parametrize("event", EVENTS)
def test_a_stop_within_a_drawing_changes_nothing(checked: Checker, tmp_path: Path, event: str) -> None:
    recipe = checked(VAE_GAN + FLOW)
    straight = Draws(event, None)
    whole = start(recipe, tmp_path / "whole", [straight]).run
    first, second = Draws(event, 1 if event == "run_ended" else 2), Draws(event, None)

    stopped = start(recipe, tmp_path / "cut", [first])
    again = start(recipe, tmp_path / "cut", [second]).run

    assert stopped.stopped is not None
    assert finals(again) == finals(whole)
    assert again.history.results == whole.history.results
    if event in ("batch_ended", "metrics_logged"):
        assert first.drawn + second.drawn == straight.drawn - 1
    else:
        assert first.drawn + second.drawn >= straight.drawn
