"""When checkpoints are saved: in the background, frozen parts once, the best epoch, and despite a full disk."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.checkpoints import Saver, load_into
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.errors import RunError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import checkpoints, disk, store

from ..small import FLOW, VAE_GAN
from .conftest import StopAfter, start
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]


def kinds(run: Any) -> list[tuple[int, str, str]]:
    return [(f.run_batch, f.step, f.kind) for f in checkpoints.listing(run.folder.checkpoints)]


def test_training_continues_while_a_checkpoint_is_written_and_the_checkpoint_has_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, go_on, written = torch.zeros(4), threading.Event(), disk.write

    def slowly(*arguments: Any) -> Any:
        assert go_on.wait(20)
        return written(*arguments)

    monkeypatch.setattr(disk, "write", slowly)
    saver = Saver(tmp_path)

    assert saver.start("000000001-s", Position(run_batch=1), {"model": {"net": {"w": weights}}}, {}, (), 2) is None
    weights += 1  # training continues before the write has started
    assert saver.poll() is None
    go_on.set()
    saved = saver.wait()
    saver.close()

    assert saved is not None
    assert torch.equal(store.load(saved.folder)[0]["model"]["net"]["w"], torch.zeros(4))


def test_starting_a_checkpoint_waits_for_the_one_before_and_returns_its_outcome(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    state = {"model": {"net": {"w": torch.zeros(4)}}}

    saver.start("000000001-s", Position(run_batch=1), state, {}, (), 2)
    first = saver.start("000000002-s", Position(run_batch=2), state, {}, (), 2)
    second = saver.wait()
    saver.close()

    assert first is not None
    assert second is not None
    assert [first.position.run_batch, second.position.run_batch] == [1, 2]
    assert [found.run_batch for found in checkpoints.listing(tmp_path)] == [2, 1]


def test_the_memory_of_a_snapshot_is_reused(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    state = {"model": {"net": {"w": torch.zeros(4)}}}

    places = []
    for number in (1, 2):
        saver.start(f"00000000{number}-s", Position(), state, {}, (), 2)
        saver.wait()
        places.append([buffer.data_ptr() for buffer in saver.buffers._kept["model.net.safetensors"].values()])
    saver.close()

    assert places[0] == places[1]


def test_models_that_a_step_does_not_train_are_written_once_per_step(checked: Checker, tmp_path: Path) -> None:
    run = start(checked(VAE_GAN + FLOW), tmp_path, [StopAfter("batch_ended", 23)]).run

    folders = [f.folder for f in checkpoints.listing(run.folder.checkpoints) if f.step == "flow"]
    frozen = {folder / "model.expander.safetensors" for folder in folders}
    moving = {folder / "model.flow_processor.safetensors" for folder in folders}
    end = next(f.folder for f in checkpoints.listing(run.folder.checkpoints) if f.kind == "end")

    assert len(folders) == 3
    assert len({path.stat().st_ino for path in frozen}) == 1
    assert len({path.stat().st_ino for path in moving}) == 3
    assert (end / "model.expander.safetensors").stat().st_ino not in {path.stat().st_ino for path in frozen}
    assert start(checked(VAE_GAN + FLOW), tmp_path).stopped is None


def test_frozen_parts_are_copied_on_a_file_system_without_hard_links(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    whole = uninterrupted(VAE_GAN + FLOW)
    monkeypatch.setattr(os, "link", refuse)

    start(checked(VAE_GAN + FLOW), tmp_path / "copied", [StopAfter("batch_ended", 23)])
    again = start(checked(VAE_GAN + FLOW), tmp_path / "copied").run

    assert finals(again) == finals(whole)


def test_the_checkpoint_of_the_best_epoch_is_kept_and_can_be_resumed(checked: Checker, tmp_path: Path) -> None:
    best = "steps.vae_gan.best={metric: vae/lr, mode: max}"  # it falls, so that the first epoch is the best
    run = start(checked(VAE_GAN, best, "steps.vae_gan.epochs=4"), tmp_path / "first").run
    least = "steps.vae_gan.best={metric: vae/lr}"
    other = start(checked(VAE_GAN, least, "steps.vae_gan.epochs=4"), tmp_path / "last").run

    assert (6, "vae_gan", "best") in kinds(run)
    assert [place for place in kinds(run) if place[2] == "best"] == [(6, "vae_gan", "best")]
    assert [place for place in kinds(other) if place[2] == "best"] == [(24, "vae_gan", "best")]
    state, meta = store.load(run.folder.checkpoints / "000000006-vae_gan-best")
    assert meta["position"] == {"step": 0, "epoch": 1, "batch": 0, "step_batch": 6, "run_batch": 6}
    assert set(state) == {"model", "update", "ema", "component", "tally"}


def test_the_best_epoch_can_be_chosen_by_an_evaluation_and_a_stop_changes_nothing(
    checked: Checker, tmp_path: Path
) -> None:
    evaluated = "steps.vae_gan.evaluate={seen: {dataset: shapes, samples: 4, every: 1, metrics: {psnr: {}}}}"
    settings = [evaluated, "steps.vae_gan.best={metric: seen/psnr, mode: max}", "steps.vae_gan.epochs=3"]
    whole = start(checked(VAE_GAN, *settings), tmp_path / "whole").run

    start(checked(VAE_GAN, *settings), tmp_path / "cut", [StopAfter("batch_ended", 8)])
    again = start(checked(VAE_GAN, *settings), tmp_path / "cut").run

    assert [place for place in kinds(again) if place[2] == "best"] == [p for p in kinds(whole) if p[2] == "best"] != []


def test_the_recipe_sets_how_many_checkpoints_are_kept(checked: Checker, tmp_path: Path) -> None:
    run = start(checked(VAE_GAN, "steps.vae_gan.keep_checkpoints=3", "defaults.checkpoint_every=2"), tmp_path).run

    assert kinds(run) == [(12, "vae_gan", "end"), *((at, "vae_gan", "due") for at in (10, 8, 6))]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class FullDisk:
    """A disk that is full from one batch to another."""

    def __init__(self, full: int, free: int | None) -> None:
        self.full, self.free = full, free
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @hookimpl(trylast=True)
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        if position.run_batch in (self.full, self.free):
            run.engine.checkpoints.collect(wait=True)  # an earlier write is finished, however busy the machine is
        if position.run_batch == self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, self.limits[1]))
        if position.run_batch == self.free:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_a_disk_that_is_full_for_a_while_is_only_a_warning(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any]
) -> None:
    warned: list[str] = []
    whole = uninterrupted(VAE_GAN)

    with no_file_beyond(resource.RLIM_INFINITY):
        run = start(checked(VAE_GAN), tmp_path / "full", [Listener(warned), FullDisk(7, 11)]).run

    assert len(warned) == 1
    assert "000000008-vae_gan  cannot write the checkpoint: File too large" in warned[0]
    assert (
        "the newest checkpoint is 000000006-vae_gan-latest; training continues, and the next checkpoint is saved as "
        "scheduled" in warned[0]
    )
    assert [name for name in os.listdir(run.folder.checkpoints) if name.startswith(".")] == []
    assert finals(run) == finals(whole)


def test_a_disk_that_is_full_at_the_end_ends_the_run_with_the_last_checkpoint_intact(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any]
) -> None:
    whole = uninterrupted(VAE_GAN)

    message = (
        r"(?s)000000012-vae_gan-end  cannot write the checkpoint: File too large.*"
        r"the newest checkpoint is 000000008-vae_gan; rerun the same command to resume from it"
    )
    with no_file_beyond(resource.RLIM_INFINITY), pytest.raises(TrainingError, match=message):
        start(checked(VAE_GAN), tmp_path / "full", [FullDisk(9, None)])
    again = start(checked(VAE_GAN), tmp_path / "full").run

    assert finals(again) == finals(whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_file_system_leaves_the_earlier_checkpoint_and_no_partial_one(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        state = {"model": {"net": {"w": torch.ones(40_000)}}}
        store.save(small, "000000001-s", state, {})
        saver = Saver(small)
        saver.start("000000002-s", Position(run_batch=2), state, {}, (), 2)
        failed = saver.wait()
        saver.close()
        left = sorted(os.listdir(small))
        store.load(small / "000000001-s")
    finally:
        subprocess.run(["umount", str(small)], check=False)

    assert failed is not None
    assert "cannot write the checkpoint: No space left on device" in str(failed.error)
    assert left == ["000000001-s"]


def test_while_a_checkpoint_is_replaced_by_one_of_the_same_name_one_of_them_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.save(tmp_path, "000000001-s", {"model": {"net": {"w": torch.zeros(3)}}}, {})
    renamed, renames = Path.rename, []

    def dying(self: Path, target: Any) -> Any:
        renames.append(self.name)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        store.save(tmp_path, "000000001-s", {"model": {"net": {"w": torch.ones(3)}}}, {})
    monkeypatch.undo()

    checkpoints.tidy(tmp_path)

    assert os.listdir(tmp_path) == [first.name]
    assert torch.equal(store.load(first)[0]["model"]["net"]["w"], torch.zeros(3))


@pytest.mark.parametrize(
    ("weights", "cause"),
    [
        ({"net": {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}}, "size mismatch for weight: copying a param"),
        ({"net": {"weight": torch.zeros(2, 2)}}, 'Missing key(s) in state_dict: "bias".'),
        ({"net": None}, "TypeError: "),
        ({"other": {}}, "KeyError: 'net'"),
    ],
)
def test_weights_that_do_not_fit_are_reported_with_the_cause(tmp_path: Path, weights: Any, cause: str) -> None:
    with pytest.raises(RunError) as caught:
        load_into(torch.nn.Linear(2, 2), "net", weights, tmp_path, "use other weights")

    (problem,) = caught.value.problems
    assert problem.message == "the weights do not fit model `net` of the recipe"
    assert (problem.code, problem.subject) == ("conflict", "net")
    assert dict(problem.notes)["cause"].startswith(cause)
    assert dict(problem.notes)["hint"] == "use other weights"
