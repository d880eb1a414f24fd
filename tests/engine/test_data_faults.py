"""Failing data: damaged samples, dying workers, more processes, a changed clock; the run stays the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data._utils import signal_handling

from fluxflow_registry import DataError, Problem, SampleError, hookimpl
from fluxflow_registry.engine.data import workers as working
from fluxflow_registry.engine.data.batches import ATTEMPTS, epoch_batches
from fluxflow_registry.engine.data.order import permutation
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.signals import REQUESTS, WARNINGS
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import checkpoints, store

from ..forked import WARM
from ..small import PLUGINS, VAE_GAN
from .conftest import StopAfter, start
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]
PLACE = (0, "step", "data", 1)


class Numbers:
    """A source of numbers, some of which cannot be read."""

    def __init__(self, length: int, damaged: Sequence[int] = ()) -> None:
        self.length, self.damaged = length, damaged

    def __len__(self) -> int:
        return self.length

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        bad = {index: Problem("is damaged", f"number {index}") for index in indices if index in self.damaged}
        if bad:
            raise SampleError(bad)
        return {"number": torch.tensor(list(indices))}


@pytest.mark.parametrize("number", [*REQUESTS, *WARNINGS], ids=lambda number: number.name)
def test_a_signal_does_not_end_a_worker_that_has_just_started(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = working._prepare_worker

    def after_a_signal(worker: int) -> None:
        os.kill(os.getpid(), number)
        prepare(worker)

    monkeypatch.setattr(working, "_prepare_worker", after_a_signal)

    read = [batch.fields["number"].tolist() for batch in epoch_batches(Numbers(8), 2, 4, 0, 2, PLACE)]

    assert sorted(number for batch in read for number in batch) == list(range(8))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {*REQUESTS, *WARNINGS}


def test_a_stop_while_workers_start_is_not_taken_for_the_death_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked signal takes effect when it is unblocked, and then the workers are killed."""

    @contextmanager
    def interrupted() -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    recorded: list[int] = []

    def record(key: int, pids: tuple[int, ...]) -> None:
        recorded.append(key)
        torch._C._set_worker_pids(key, pids)

    monkeypatch.setattr(working, "blocked", interrupted)
    monkeypatch.setattr(signal_handling, "_set_worker_pids", record)

    with pytest.raises(KeyboardInterrupt):
        next(epoch_batches(Numbers(8), 2, 4, 0, 2, PLACE))

    assert recorded
    for key in recorded:  # another loader may get the same id
        with pytest.raises(ValueError, match="Cannot find worker information"):
            torch._C._remove_worker_pids(key)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 3])
def test_the_next_sample_of_the_same_order_takes_the_place_of_a_damaged_one(workers: int, first: int) -> None:
    order = permutation(20, *PLACE).tolist()
    damaged = {order[5], order[6], order[19]}
    expected = [index if index not in damaged else None for index in order]
    expected[5] = expected[6] = order[7]
    expected[19] = order[0]

    read = list(epoch_batches(Numbers(20, sorted(damaged)), 4, 5, first, workers, PLACE))

    assert [n for batch in read for n in batch.fields["number"].tolist()] == expected[4 * first :]
    assert [list(batch.indices) for batch in read] == [batch.fields["number"].tolist() for batch in read]
    replaced = {r.index: (r.substitute, str(r.problem)) for batch in read for r in batch.replaced}
    replacements = {order[19]: (order[0], f"number {order[19]}  is damaged")}
    if first == 0:
        replacements |= {order[p]: (order[7], f"number {order[p]}  is damaged") for p in (5, 6)}
    assert replaced == replacements


def test_a_dataset_without_a_readable_sample_is_an_error_and_not_an_endless_search() -> None:
    with pytest.raises(DataError, match="is damaged"):
        list(epoch_batches(Numbers(8, range(8)), 4, 2, 0, 0, PLACE))
    with pytest.raises(DataError, match="is damaged"):
        list(epoch_batches(Numbers(10 * ATTEMPTS, range(10 * ATTEMPTS - 4)), 1, 9 * ATTEMPTS, 0, 0, PLACE))


class Foreign(Numbers):
    """A source that reports samples which were not requested."""

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        raise SampleError({999: Problem("is damaged", "number 999")})


def test_a_source_that_reports_samples_which_were_not_requested_is_an_error() -> None:
    with pytest.raises(DataError, match="number 999"):
        list(epoch_batches(Foreign(8), 4, 2, 0, 0, PLACE))


class Dying(Numbers):
    """A source whose process dies when it reads a number, once for each mark file that it can remove."""

    def __init__(self, length: int, deadly: int, marks: Path, times: int) -> None:
        super().__init__(length)
        self.deadly, self.marks = deadly, marks
        marks.mkdir()
        for number in range(times):
            (marks / str(number)).touch()

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        left = list(self.marks.iterdir())
        if self.deadly in indices and left:
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(indices, seed)


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_worker_dies_every_sample_is_read_exactly_once_in_the_same_order(tmp_path: Path, workers: int) -> None:
    order = permutation(20, *PLACE).tolist()

    read = list(epoch_batches(Dying(20, order[13], tmp_path / "marks", 1), 2, 10, 0, workers, PLACE))

    assert [n for batch in read for n in batch.fields["number"].tolist()] == order
    assert list((tmp_path / "marks").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_workers_that_die_repeatedly_are_an_error_that_names_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "RESTARTS", 0)  # it takes five seconds to find that one has died
    order = permutation(20, *PLACE).tolist()
    source = Dying(20, order[0], tmp_path / "marks", 99)

    with pytest.raises(DataError, match=r"died 1 time in a row \(signal 9\)") as caught:
        list(epoch_batches(source, 2, 10, 0, 1, PLACE))

    assert "free memory, or lower `workers`" in str(caught.value)
    assert multiprocessing.active_children() == []


class KillsAWorker:
    """Kills a worker of the run after a batch."""

    def __init__(self, run_batch: int) -> None:
        self.run_batch = run_batch

    @hookimpl
    def batch_ended(self, position: Any) -> None:
        if position.run_batch == self.run_batch:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)


def test_a_run_ends_with_the_same_weights_if_one_of_its_workers_is_killed(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any]
) -> None:
    killed = start(checked(VAE_GAN, "defaults.workers=2"), tmp_path / "killed", [KillsAWorker(2)]).run

    assert finals(killed) == finals(uninterrupted(VAE_GAN))


def half(rank: int) -> None:
    """What one of two processes reads: its half of each batch."""
    read = epoch_batches(Numbers(40, [3, 17]), 4, 10, 0, 0, PLACE)
    print(json.dumps([batch.fields["number"].tolist()[rank::2] for batch in read]))


def test_two_processes_that_share_the_batches_read_the_same_samples_as_one() -> None:
    alone = [b.fields["number"].tolist() for b in epoch_batches(Numbers(40, [3, 17]), 4, 10, 0, 0, PLACE)]
    root = Path(__file__).resolve().parents[2]

    programs = [f"from tests.engine.test_data_faults import half; half({rank})" for rank in range(2)]
    processes = [
        subprocess.Popen([WARM.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True)
        for program in programs
    ]
    halves = [json.loads(process.communicate()[0]) for process in processes]

    assert [[a[0], b[0], a[1], b[1]] for a, b in zip(*halves, strict=True)] == alone


@pytest.fixture
def with_folders() -> Registry:
    return load([*PLUGINS, "data"])


def write_pictures(folder: Path) -> Path:
    """Twelve images of one color each, with captions."""
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), (number * 20, 0, 0)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text("a red picture")
    return folder


def test_images_that_are_damaged_during_a_run_are_counted_named_and_replaced(
    checked: Checker, tmp_path: Path, with_folders: Registry
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    settings = f"datasets.shapes={{type: folder, path: '{pictures}', image_size: 16, verify: false}}"
    warned: list[str] = []
    recipe = checked(VAE_GAN, settings, using=with_folders)
    (pictures / "05.png").write_bytes((pictures / "05.png").read_bytes()[:45])

    stopped = start(recipe, tmp_path / "runs", [Listener(warned), StopAfter("batch_ended", 4)])
    run = start(recipe, tmp_path / "runs", [Listener(warned)]).run
    whole = start(recipe, tmp_path / "whole").run

    assert stopped.stopped is not None
    assert len(warned) == 1, "each damaged sample is reported once in a run, stopped or not"
    assert "dataset `shapes`: sample 5 is damaged; the next sample replaces it" in warned[0]
    assert "05.png  image `05.png` is damaged" in warned[0]
    assert list(run.history.damaged["shapes"]) == ["5"]
    newest = checkpoints.listing(run.folder.checkpoints)[0].folder
    assert list(store.load(newest)[1]["damaged"]["shapes"]) == ["5"]
    assert finals(run) == finals(whole)


class Clock(datetime):
    """A clock that was set to another day."""

    off = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + cls.off


@pytest.mark.parametrize("days", [-400, 400])
def test_setting_the_clock_back_or_forward_changes_nothing(
    checked: Checker,
    tmp_path: Path,
    uninterrupted: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    days: int,
) -> None:
    whole = uninterrupted(VAE_GAN)
    first = start(checked(VAE_GAN), tmp_path / "set", [StopAfter("batch_ended", 5)])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 86400)
    monkeypatch.setattr(folders, "datetime", Clock)
    monkeypatch.setattr(Clock, "off", timedelta(days=days))

    again = start(checked(VAE_GAN), tmp_path / "set").run

    assert again.folder == first.run.folder
    assert finals(again) == finals(whole)


def test_a_resumed_run_warns_that_its_data_have_changed(
    checked: Checker, tmp_path: Path, with_folders: Registry
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    settings = f"datasets.shapes={{type: folder, path: '{pictures}', image_size: 16}}"
    same: list[str] = []
    other: list[str] = []
    for root, warned in (("a", same), ("b", other)):
        start(checked(VAE_GAN, settings, using=with_folders), tmp_path / root, [StopAfter("batch_ended", 2)])
        if warned is other:
            (pictures / "03.txt").write_text("a darker picture")
        start(checked(VAE_GAN, settings, using=with_folders), tmp_path / root, [Listener(warned)])

    assert same == []
    assert other == ["dataset `shapes` has changed since the run was saved: training continues with the new data"]
