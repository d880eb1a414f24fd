"""A request to stop interrupts a run that waits for data, and changes nothing: it resumes as if it had not waited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.plan.steps import RecipePlan

from ..small import FLOW, VAE_GAN
from .conftest import start
from .test_resume import finals

Checker = Callable[..., RecipePlan]


class StopWhileReading:
    """An observer under which reading for the n-th time waits until a signal arrives: the handler asks to stop."""

    def __init__(self, reading: int) -> None:
        self.left = reading

    @hookimpl
    def run_started(self, run: Any) -> None:
        for name, source in run.engine.data.sources.items():
            run.engine.data.sources[name] = Waiting(source, run.engine, self)


class Waiting:
    """A source whose batch never comes, once it is time."""

    def __init__(self, source: Any, run: Run, stop: StopWhileReading) -> None:
        self._source, self._run, self._stop = source, run, stop
        self.samples_at_once = 1

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: Sequence[int], seed: int) -> Any:
        self._stop.left -= 1
        if self._stop.left == 0:
            self._run.request_stop("SIGTERM")  # as the handler of a signal calls it, in the middle of reading
            raise AssertionError("it goes on waiting")
        return self._source.batch(indices, seed)


@pytest.mark.parametrize("settings", [[], ["steps.vae_gan.accumulate=4"]], ids=str)
@pytest.mark.parametrize("reading", [1, 4, 7, 12, 15])
def test_a_run_that_is_stopped_while_it_reads_resumes_to_the_same_end(
    settings: list[str], reading: int, checked: Checker, uninterrupted: Callable[..., Run], tmp_path: Path
) -> None:
    whole = uninterrupted(VAE_GAN + FLOW, *settings)
    recipe = checked(VAE_GAN + FLOW, *settings)

    first = start(recipe, tmp_path / "cut", [StopWhileReading(reading)])
    second = start(recipe, tmp_path / "cut")

    assert first.stopped is not None
    assert first.run.stopping == "SIGTERM"
    assert second.stopped is None
    assert finals(second.run) == finals(whole)
    assert second.run.history.results == whole.history.results
    assert second.run.history.means == whole.history.means


@pytest.mark.parametrize("accumulate", [2, 4, 5])
def test_an_open_window_is_undone_before_the_run_is_saved(accumulate: int, checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN, f"steps.vae_gan.accumulate={accumulate}", "steps.vae_gan.log_every=1")
    stops: list[int] = []

    for reading in range(1, 7):
        attempt = start(recipe, tmp_path / str(reading), [StopWhileReading(reading)])
        stops.append(attempt.stopped.step_batch)
        assert attempt.stopped.batch == attempt.stopped.run_batch == stops[-1]

    assert stops == [number - number % accumulate for number in range(6)]


def test_a_request_that_comes_while_nothing_is_read_is_heeded_after_the_batch(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Run]
) -> None:
    class Stop:
        @hookimpl
        def batch_ended(self, run: Any) -> None:
            run.engine.request_stop("SIGTERM")

    attempt = start(checked(VAE_GAN), tmp_path / "cut", [Stop()])

    assert attempt.stopped.run_batch == 1
