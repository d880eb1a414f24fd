"""What a crash costs: at most some minutes of the epoch that is being trained; saving changes no result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run import checkpoints as saving
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import checkpoints

from ..small import FLOW, VAE_GAN
from .conftest import start
from .test_resume import finals

Checker = Callable[..., RecipePlan]

#: No checkpoint is due within a step of this recipe.
SELDOM = ("defaults.checkpoint_every=1000", "steps.vae_gan.epochs=3")


class Killed(BaseException):
    """The process was killed."""


class Kill:
    """Kills the run at the first event of this name at or after a batch, when the disk has what was saved."""

    def __init__(self, event: str, batch: int) -> None:
        self.event, self.batch = event, batch

    def _at(self, event: str, run: ObservedRun, position: Position) -> None:
        run.engine.checkpoints.collect(wait=True)
        if event == self.event and position.run_batch >= self.batch:
            raise Killed

    @hookimpl
    def batch_ended(self, run: Any, position: Position) -> None:
        self._at("batch_ended", run, position)

    @hookimpl
    def evaluated(self, run: Any, position: Position) -> None:
        self._at("evaluated", run, position)


class Saved:
    """Collects which checkpoints are saved, and where a run starts or resumes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.started: list[int] = []

    @hookimpl
    def run_started(self, position: Position) -> None:
        self.started.append(position.run_batch)

    @hookimpl
    def checkpoint_saved(self, folder: Path) -> None:
        self.names.append(folder.name)


@pytest.mark.parametrize(
    ("event", "batch", "resumes_at"),
    [
        *(("batch_ended", batch, batch // 6 * 6 if batch % 6 else batch - 6) for batch in range(1, 19)),
        *(("batch_ended", batch, 18) for batch in (19, 24)),
        ("evaluated", 24, 18),
        ("evaluated", 30, 24),
    ],
)
def test_a_crash_costs_no_more_than_the_epoch_that_is_being_trained(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any], event: str, batch: int, resumes_at: int
) -> None:
    recipe, saved = checked(VAE_GAN + FLOW, *SELDOM), Saved()
    with suppress(Killed):
        start(recipe, tmp_path, [Kill(event, batch)])

    again = start(recipe, tmp_path, [saved]).run

    assert saved.started == [resumes_at]
    assert finals(again) == finals(uninterrupted(VAE_GAN + FLOW, *SELDOM))


def test_a_crash_during_the_evaluations_at_the_end_of_a_step_costs_no_training(
    checked: Checker, tmp_path: Path
) -> None:
    last = "steps.flow.evaluate.seen.every=null"
    recipe, saved = checked(VAE_GAN + FLOW, *SELDOM, last), Saved()
    with suppress(Killed):
        start(recipe, tmp_path, [Kill("evaluated", 30)])

    start(recipe, tmp_path, [saved])

    assert saved.started == [30]


def test_after_some_minutes_a_checkpoint_is_saved_within_an_epoch(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "INTERVAL", -1.0)
    recipe, saved = checked(VAE_GAN, *SELDOM, "steps.vae_gan.accumulate=2"), Saved()
    with suppress(Killed):
        start(recipe, tmp_path, [Kill("batch_ended", 9)])

    again = start(recipe, tmp_path, [saved]).run

    assert saved.started == [8]
    assert finals(again) == finals(uninterrupted(VAE_GAN, *SELDOM, "steps.vae_gan.accumulate=2"))


def test_no_time_passes_within_an_epoch_of_a_test_so_none_is_saved_there(checked: Checker, tmp_path: Path) -> None:
    saved = Saved()

    run = start(checked(VAE_GAN, *SELDOM), tmp_path, [saved]).run

    assert saved.names == ["000000006-vae_gan-latest", "000000012-vae_gan-latest", "000000018-vae_gan-end"]
    assert [found.folder.name for found in checkpoints.listing(run.folder.checkpoints)] == ["000000018-vae_gan-end"]


def test_of_checkpoints_that_were_not_due_only_the_latest_is_kept(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN, "steps.vae_gan.epochs=3", "defaults.checkpoint_every=4")

    with suppress(Killed):
        start(recipe, tmp_path, [Kill("batch_ended", 19 - 6)])

    (folder,) = tmp_path.glob("small-*")
    names = [found.folder.name for found in checkpoints.listing(folder / "checkpoints")]
    assert names == ["000000012-vae_gan", "000000008-vae_gan"]


def test_where_saving_takes_most_of_the_time_ends_of_epochs_are_left_out(
    checked: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "ALLOWANCE", 0.0)
    monkeypatch.setattr(saving, "SHARE", 0.0)
    saved = Saved()

    start(checked(VAE_GAN, *SELDOM), tmp_path, [saved])

    assert saved.names == ["000000018-vae_gan-end"]


def test_the_best_epoch_is_saved_once(checked: Checker, tmp_path: Path) -> None:
    best, saved = "steps.vae_gan.best={metric: vae/lr}", Saved()

    start(checked(VAE_GAN, *SELDOM, best), tmp_path, [saved])

    assert saved.names == [*(f"0000000{at}-vae_gan-best" for at in ("06", "12", "18")), "000000018-vae_gan-end"]
