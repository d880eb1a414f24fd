"""Late starts, accumulation, views, buckets, averages and conditions on evaluations resume together in one step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_registry.engine.diagnosis.proof import Trace
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load

from ..small import PLUGINS, VAE_GAN
from .conftest import StopAfter, start
from .test_resume import finals

STEP = "steps.vae_gan"
VAE = f"{STEP}.updates.vae"
GENERATOR = f"{VAE}.losses.hinge_generator"
DISCRIMINATOR = f"{STEP}.updates.discriminator"
ALWAYS = "{type: loss_threshold, metric: vae/l1, threshold: 100.0}"

#: An epoch has 3 batches in 3 sizes each: 9 batches, so that with 2 in a window the last window has one.
TOGETHER = [
    "defaults.batch_size=2",
    f"{STEP}.max_steps=3",
    f"{STEP}.epochs=2",
    f"{STEP}.checkpoint_every=1000",
    f"{STEP}.ema={{models: [expander, discriminator], decay: 0.9}}",
    f"{STEP}.evaluate={{val: {{dataset: val, samples: 4, batch_size: 2, every: 1, metrics: {{elbo: {{}}}}}}}}",
    f"{STEP}.best={{metric: val/elbo}}",
    f"{VAE}.losses.kl={{weight: 0.01, warmup: 6, start: 4}}",
    f"{VAE}.scheduler={{type: ReduceLROnPlateau, metric: val/elbo, mode: max, patience: 0}}",
    f"{DISCRIMINATOR}.scheduler={{type: OneCycleLR, interval: batch}}",
]

#: Starts within a window and within the sizes of a batch; by what is known after an epoch; and of a balancer's loss.
LATE = {
    "by number": [f"{GENERATOR}.start=8", f"{DISCRIMINATOR}.start=5"],
    "by condition": [f"{GENERATOR}.start={ALWAYS}", f"{DISCRIMINATOR}.start={ALWAYS}"],
    "balanced": [
        f"{GENERATOR}.start=7",
        f"{VAE}.balancer={{type: gradient_norm, layer: expander.out.0.weight, balanced: [hinge_generator]}}",
    ],
}


@pytest.fixture
def together(checked: Callable[..., RecipePlan], tmp_path: Path) -> Callable[..., RecipePlan]:
    """The recipe with everything, on images of three shapes, some of them damaged and some held out."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(24):
        size = [(32, 32), (24, 40), (40, 24)][number % 3]
        Image.new("RGB", size, (number * 10, 255 - number * 10, 0)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"picture {number}")
    for name in ("03.png", "04.png", "08.png", "10.png", "17.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-30])
    data = f"type: folder, path: '{folder}', image_size: 32, bucket_multiple: 8, verify: false, holdout: 0.2"
    datasets = [
        f"datasets.shapes={{{data}, flip: 0.5, reduced_min_sizes: [8, 16]}}",
        f"datasets.val={{{data}, split: held_out}}",
    ]
    using = load([*PLUGINS, "data"])
    return lambda *settings: checked(VAE_GAN, *datasets, *TOGETHER, *settings, using=using)


@pytest.mark.parametrize(("late", "accumulate"), [("by number", 2), ("by condition", 1), ("balanced", 2)])
def test_stopping_after_every_batch_changes_no_computed_value(
    together: Callable[..., RecipePlan], tmp_path: Path, late: str, accumulate: int
) -> None:
    recipe = together(f"{STEP}.accumulate={accumulate}", *LATE[late])

    whole = start(recipe, tmp_path / "whole", [Trace(tmp_path / "whole.jsonl")]).run
    stops: list[int] = []
    trace = Trace(tmp_path / "often.jsonl")
    # A stop within a window of batches undoes it, so that only every second one may be.
    while (
        again := start(recipe, tmp_path / "often", [StopAfter("batch_ended", 1 + len(stops) % accumulate), trace])
    ).stopped:
        stops.append(again.stopped.run_batch)

    everywhere = {9 * epoch + last for epoch in (0, 1) for last in [*range(accumulate, 9, accumulate), 9]}
    assert set(stops) >= everywhere - {18}
    assert whole.history.damaged["shapes"]
    assert 0 < whole.live.updates[0].steps <= whole.live.updates[1].steps
    assert finals(again.run) == finals(whole)
    assert traced(tmp_path / "often.jsonl") == traced(tmp_path / "whole.jsonl")
    assert again.run.live.metrics.history == whole.live.metrics.history
    assert best(again.run) == best(whole)


def traced(path: Path) -> list[Any]:
    """The entries of a trace for each batch and evaluation, once: those that a stop undid are in it twice."""
    entries = {line: json.loads(line) for line in path.read_text().splitlines()}
    return list(entries.values())


def best(run: Any) -> list[str]:
    """The names of the checkpoints of the best epoch."""
    return sorted(path.name for path in (run.folder.path / "checkpoints").glob("*-best"))
