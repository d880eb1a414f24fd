"""A dataset that gains or loses samples while a run is stopped: every schedule still ends with its step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.training.late_start import Extent, Starts, changed_intervals, intervals
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import checkpoints, disk

from ..small import VAE_GAN
from .conftest import StopAfter, start
from .test_resume import Listener
from .test_starting import made_up

Checker = Callable[..., RecipePlan]

STEP = "steps.vae_gan"
VAE = f"{STEP}.updates.vae"

SCHEDULES = [
    "{type: OneCycleLR}",
    "{type: OneCycleLR, warmup: 3, cycle_momentum: true}",
    "{type: CosineAnnealingLR, interval: batch}",
    "{type: CosineAnnealingLR, interval: batch, warmup: 2, eta_min_factor: 0.1}",
    "{type: LinearLR, interval: batch, start_factor: 1.0, end_factor: 0.0}",
]

#: Batches of an epoch while the run is started, and after it is resumed.
CHANGES = [(6, 10), (6, 3), (6, 7)]


class Rates:
    """Collects the learning rate of each batch."""

    def __init__(self) -> None:
        self.of: dict[int, float] = {}

    @hookimpl
    def metrics_logged(self, position: Position, metrics: dict[str, float]) -> None:
        self.of[position.step_batch] = metrics["vae/lr"]


def with_length(checked: Checker, batches: int, *settings: str) -> RecipePlan:
    common = ("defaults.log_every=1", f"{STEP}.epochs=3", f"datasets.shapes.length={4 * batches}")
    return checked(VAE_GAN, *common, *settings)


@pytest.mark.parametrize("stop", [2, 6, 8])
@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_ends_with_its_step_though_the_dataset_has_changed(
    checked: Checker, tmp_path: Path, schedule: str, before: int, after: int, stop: int
) -> None:
    key, rates, heard = f"{VAE}.scheduler={schedule}", Rates(), list[str]()
    start(with_length(checked, before, key), tmp_path, [StopAfter("batch_ended", stop), rates])

    again = start(with_length(checked, after, key), tmp_path, [rates, Listener(heard)]).run

    update = again.live.updates[1]
    total = update.optimizer.schedule.total
    assert update.optimizer.scheduler.last_epoch == total == max(rates.of)
    expected = [update.optimizer.lr, 0.0 if "eta_min" not in schedule else 1e-4]
    assert expected[0] == pytest.approx(expected[1], abs=1e-8)
    last = [rate for batch, rate in sorted(rates.of.items()) if batch > max(stop, 0.6 * total)]
    assert last == sorted(last, reverse=True), "no rate rises again"
    assert any(f"the schedule of update `vae` has {total} intervals instead of {3 * before}" in each for each in heard)


@pytest.mark.parametrize("lazy", ["{r1: {every: 4}}", "{r1: {every: 2}, hinge_discriminator: {start: 9}}"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_the_schedule_of_a_lazy_or_late_update_ends_with_its_step_too(
    checked: Checker, tmp_path: Path, before: int, after: int, accumulate: int, lazy: str
) -> None:
    discriminator = f"{STEP}.updates.discriminator"
    settings = [f"{discriminator}.losses={lazy}", f"{discriminator}.scheduler={{type: OneCycleLR}}"]
    settings += [f"{STEP}.accumulate={accumulate}", f"{STEP}.epochs=6"]
    start(with_length(checked, before, *settings), tmp_path, [StopAfter("batch_ended", 2 * before - 1)])

    again = start(with_length(checked, after, *settings), tmp_path).run

    update = again.live.updates[0]
    assert update.optimizer.scheduler.last_epoch == update.optimizer.schedule.total


def test_a_dataset_that_changes_again_changes_the_schedule_again(checked: Checker, tmp_path: Path) -> None:
    key = f"{VAE}.scheduler={{type: OneCycleLR}}"
    start(with_length(checked, 6, key), tmp_path, [StopAfter("batch_ended", 8)])
    start(with_length(checked, 9, key), tmp_path, [StopAfter("batch_ended", 5)])
    start(with_length(checked, 9, key), tmp_path, [StopAfter("batch_ended", 1)])

    again = start(with_length(checked, 4, key), tmp_path).run

    schedule = again.live.updates[1].optimizer.schedule
    assert schedule.scheduler.last_epoch == schedule.total == 14 + 4  # the second epoch is over by then


def test_a_schedule_of_fixed_length_and_one_that_follows_a_metric_stay_as_they_are(
    checked: Checker, tmp_path: Path
) -> None:
    for name, schedule in (("step", "{type: StepLR, step_size: 2}"), ("plateau", "{type: ReduceLROnPlateau}")):
        heard: list[str] = []
        key = f"{VAE}.scheduler={schedule}"
        start(with_length(checked, 6, key), tmp_path / name, [StopAfter("batch_ended", 8)])
        again = start(with_length(checked, 9, key), tmp_path / name, [Listener(heard)]).run

        assert again.live.updates[1].optimizer.scheduler.last_epoch == 3
        assert not [message for message in heard if "schedule" in message]


def test_a_run_of_an_older_version_recorded_no_length_and_ends_all_the_same(checked: Checker, tmp_path: Path) -> None:
    key = f"{VAE}.scheduler={{type: OneCycleLR}}"
    stopped = start(with_length(checked, 6, key), tmp_path, [StopAfter("batch_ended", 8)]).run
    found = checkpoints.listing(stopped.folder.checkpoints)[0].folder
    content = json.loads((found / checkpoints.STATE).read_text())
    for update in content["state"]["update"].values():
        update.pop("schedule", None)
    manifest = checkpoints.read_manifest(found)
    manifest["files"][checkpoints.STATE] = disk.write(found / checkpoints.STATE, [json.dumps(content).encode()])
    manifest["digest"] = checkpoints.own_digest(manifest)
    (found / checkpoints.MANIFEST).write_text(json.dumps(manifest))

    again = start(with_length(checked, 10, key), tmp_path).run

    schedule = again.live.updates[1].optimizer.schedule
    assert schedule.scheduler.last_epoch == schedule.total == 6 + 10 + 10


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_length_is_that_of_the_steps_that_are_taken(data: Any) -> None:
    epochs, old, new, accumulate = (data.draw(st.integers(1, 6)) for _ in range(4))
    starts = made_up({label: data.draw(st.integers(0, 30)) for label in ("", "a", "b")})
    starts.every = {"a": data.draw(st.integers(1, 7)), "b": data.draw(st.integers(1, 7))}
    starts._derive()
    at = Position(epoch=data.draw(st.integers(0, epochs - 1)))
    closed = list(range(0, old + 1, accumulate))
    batch = data.draw(st.sampled_from(closed))
    at = evolve(at, batch=batch, step_batch=at.epoch * old + batch)
    before, now = Extent(epochs, old, accumulate), Extent(epochs, new, accumulate)
    total = intervals(before, starts, "batch")
    assert total is not None

    found = changed_intervals(total, before, now, starts, "batch", at)

    passed = taken(starts, before, Position(), at)
    assert found == max(total + taken(starts, now, at, None) - (taken(starts, before, at, None)), 1)
    if total == passed + taken(starts, before, at, None):
        assert found == max(passed + taken(starts, now, at, None), 1)


def taken(starts: Starts, extent: Extent, since: Position, until: Position | None) -> int:
    """How often an optimizer steps from a position on, counted window by window."""
    steps, step_batch = 0, since.step_batch
    for epoch in range(since.epoch, extent.epochs):
        batch = since.batch if epoch == since.epoch else 0
        while batch < extent.batches and (until is None or step_batch < until.step_batch):
            end = min(batch - batch % extent.accumulate + extent.accumulate, extent.batches)
            window = range(step_batch, step_batch + end - batch)
            steps += any(starts.counts(label, each) for each in window for label in starts.every)
            step_batch, batch = window.stop, end
    return steps


def test_a_step_that_is_resumed_beyond_a_shortened_epoch_continues_with_the_next_one(
    checked: Checker, tmp_path: Path
) -> None:
    start(with_length(checked, 6), tmp_path, [StopAfter("batch_ended", 5)])

    again = start(with_length(checked, 3), tmp_path).run

    assert again.live.updates[1].steps == 5 + 3 + 3
