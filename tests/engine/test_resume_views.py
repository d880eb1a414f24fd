"""Buckets and several resolutions of a batch: every view counts, and a run can stop after any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.diagnosis.proof import Trace
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.errors import DataError, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..small import PLUGINS, VAE_GAN
from .conftest import StopAfter, start
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]


@pytest.fixture(scope="module")
def with_data() -> Registry:
    return load([*PLUGINS, "data"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six square images, five tall and five wide ones."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(16):
        size = (32, 32) if number < 6 else (24, 40) if number < 11 else (40, 24)
        Image.new("RGB", size, (number * 16, 255 - number * 16, 0)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"picture {number}")
    return folder


@pytest.fixture
def recipe(checked: Checker, pictures: Path, with_data: Registry) -> Callable[..., RecipePlan]:
    """Two updates on buckets in three resolutions each; an epoch has two batches of two samples."""

    def make(*settings: str, views: str = "[8, 16]") -> RecipePlan:
        dataset = (
            f"datasets.shapes={{type: folder, path: '{pictures}', image_size: 32, bucket_multiple: 8, flip: 0.5, "
            f"reduced_min_sizes: {views}}}"
        )
        small = ("defaults.batch_size=2", "steps.vae_gan.max_steps=3", *settings)
        return checked(VAE_GAN, dataset, *small, using=with_data)

    return make


class Sizes:
    """Collects the sizes of the images that a model is called with, batch by batch."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[int, int]]] = [[]]

    @hookimpl
    def run_started(self, run: Any) -> None:
        model = run.engine.models["compressor"]
        model.register_forward_pre_hook(lambda _, given: self.seen[-1].append(tuple(given[0].shape[-2:])))

    @hookimpl
    def batch_ended(self) -> None:
        self.seen.append([])


def test_a_model_is_trained_on_each_view_of_a_batch_smallest_first(
    recipe: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    seen = Sizes()

    run = start(recipe(), tmp_path / "runs", [seen]).run

    sizes = [calls[0] for calls in seen.seen if calls]
    assert len(sizes) == 2 * 3 * 3
    copies = {(32, 32): [(8, 8), (16, 16)], (40, 24): [(8, 8), (24, 16)], (24, 40): [(8, 8), (16, 24)]}
    for place in range(0, len(sizes), 3):
        smallest, middle, full = sizes[place : place + 3]
        assert full in copies
        assert smallest[0] * smallest[1] < middle[0] * middle[1] < full[0] * full[1]
    assert len(set(sizes[2::3])) > 1
    assert [turn.steps for turn in run.live.updates] == [18, 18]


def test_the_length_of_a_schedule_counts_max_steps_and_resolutions(
    recipe: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    run = start(recipe(), tmp_path / "runs").run
    schedule = run.live.updates[1].optimizer.scheduler

    assert run.plan.steps[0].batches == 3 * 3
    assert schedule.T_max == 2 * 3 * 3
    assert schedule.last_epoch == schedule.T_max
    assert schedule.get_last_lr() == pytest.approx([schedule.eta_min], abs=1e-12)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopping_after_every_view_of_every_batch_ends_with_the_same_weights(
    recipe: Callable[..., RecipePlan], tmp_path: Path, accumulate: int
) -> None:
    made = recipe(f"steps.vae_gan.accumulate={accumulate}", "steps.vae_gan.updates.vae.losses.kl.warmup=7")
    whole = start(made, tmp_path / "whole", [Trace(tmp_path / "whole.jsonl")]).run
    stops = 0

    trace = Trace(tmp_path / "often.jsonl")
    # A stop within a window of batches undoes it, so that only every second one may be.
    while (again := start(made, tmp_path / "often", [StopAfter("batch_ended", 1 + stops % accumulate), trace])).stopped:
        stops += 1

    assert stops >= 18 // accumulate - 1
    assert finals(again.run) == finals(whole)
    # Each line once: batches that a stop undid are in it twice.
    traces = [dict.fromkeys((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("whole", "often")]
    assert list(traces[0]) == list(traces[1])


def test_worker_processes_change_nothing(recipe: Callable[..., RecipePlan], tmp_path: Path) -> None:
    alone = start(recipe(), tmp_path / "alone").run

    first = start(recipe("steps.vae_gan.workers=2"), tmp_path / "two", [StopAfter("batch_ended", 4)])
    second = start(recipe("steps.vae_gan.workers=2"), tmp_path / "two").run

    assert first.stopped.batch == 4
    assert finals(second) == finals(alone)


def test_the_samples_that_fill_no_batch_are_reported_once_by_bucket(
    recipe: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    warned: list[str] = []

    start(recipe("defaults.batch_size=6"), tmp_path / "runs", [Listener(warned)])

    assert warned == [
        "dataset `shapes`: an epoch skips 10 of 16 samples: they do not fill a batch; "
        "buckets with fewer than 6 samples are never trained on: 24 x 40 (5), 40 x 24 (5)"
    ]


def test_the_notes_of_a_source_are_reported_once(recipe: Callable[..., RecipePlan], tmp_path: Path) -> None:
    warned: list[str] = []
    made = recipe()
    source = open_sources(made)["shapes"]
    source.notes = ["it was a long way"]  # type: ignore[attr-defined]
    run = Run(made, folders.new(tmp_path, "noted", "digest"), {"shapes": source}, torch.device("cpu"))
    run.observers.register(Listener(warned))

    for _ in range(2):
        run.data.report_notes(run.plan.steps[0], Position())

    assert warned[0] == "dataset `shapes`: it was a long way"
    assert len(warned) == 2, "and what the epoch leaves out"


def test_an_evaluation_measures_each_sample_in_the_shape_of_its_bucket(
    recipe: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    seen = Sizes()
    evaluation = "{dataset: shapes, samples: 16, batch_size: 4, metrics: {psnr: {}}}"

    run = start(recipe(f"steps.vae_gan.evaluate={{all: {evaluation}}}"), tmp_path / "runs", [seen]).run

    assert {(32, 32), (40, 24), (24, 40)} == set(seen.seen[-1])
    assert len(seen.seen[-1]) == 2 + 2 + 2
    assert torch.isfinite(torch.tensor(run.history.results["vae_gan"]["all"]["psnr"]))


def test_a_view_that_does_not_fit_the_models_is_rejected_before_training(recipe: Callable[..., RecipePlan]) -> None:
    prove_shapes(recipe())

    with pytest.raises(RecipeError, match=r"(?s)in step `vae_gan` where `image` is \[3, \d+, \d+\], "):
        prove_shapes(recipe("datasets.shapes.bucket_multiple=null", views="[15]"))


def test_a_view_that_fails_is_reported_with_its_dataset(
    recipe: Callable[..., RecipePlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def view(source: Any, fields: Any, number: int) -> Any:
        raise ZeroDivisionError("no such size")

    made = recipe()
    monkeypatch.setattr(type(open_sources(made)["shapes"]), "view", view)

    with pytest.raises(DataError, match="dataset `shapes` failed to return view 0 of a batch: ZeroDivisionError: no"):
        start(made, tmp_path / "runs")
