"""A step has batches of its own: of its data, in its size, and counted from its beginning."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.plan.steps import RecipePlan

from ..small import VAE_GAN
from .conftest import start

#: The step a second time, under another name.
AGAIN = VAE_GAN.split("steps:\n")[1].replace("  vae_gan:", "  again:")


class Listener:
    """For each step, batch by batch: the weight of the KL divergence, and the noise that the discriminator sees."""

    def __init__(self) -> None:
        self.kl: dict[str, list[float]] = defaultdict(list)
        self.noise: dict[str, list[float]] = defaultdict(list)

    @hookimpl
    def step_started(self, run: Any, step: Any) -> None:
        def watch(_: str, name: str, value: Any) -> None:
            if name == "instance_noise":
                self.noise[step.name].append(float(value))

        run.engine.live.values.watch = watch

    @hookimpl
    def metrics_logged(self, step: Any, metrics: Any) -> None:
        self.kl[step.name].append(metrics["vae/kl/weight"])


def test_a_warm_up_and_a_decay_start_over_in_each_step(checked: Callable[..., RecipePlan], tmp_path: Path) -> None:
    heard = Listener()
    noise = "values={instance_noise: {std: 0.5, decay: 0.5}}"
    short = [f"steps.{name}.epochs=1" for name in ("vae_gan", "again")]

    start(checked(VAE_GAN + AGAIN, noise, *short, "defaults.log_every=1"), tmp_path, [heard])

    rising = [1e-3 * (1 - math.cos(math.pi * s / 5)) / 2 for s in range(5)] + [1e-3]
    assert heard.kl["vae_gan"] == heard.kl["again"] == pytest.approx(rising)
    assert heard.noise["vae_gan"] == heard.noise["again"] == pytest.approx([0.5 * 0.5**s for s in range(6)])


class Sizes:
    """For each step the sizes of the pictures that the encoder is trained on, batch by batch."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, ...]]] = defaultdict(list)

    @hookimpl
    def step_started(self, run: Any, step: Any) -> None:
        seen = self.seen[step.name]
        run.engine.models["compressor"].register_forward_pre_hook(
            lambda _, given: seen.append(tuple(given[0].shape)) if run.engine.live.plan.name == step.name else None
        )


def test_each_step_trains_on_its_own_data_in_batches_of_their_size(
    checked: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    seen = Sizes()
    other = "datasets.other={type: shapes, image_size: 32, length: 12, batch_size: 3}"
    short = [f"steps.{name}.epochs=1" for name in ("vae_gan", "again")]

    start(checked(VAE_GAN + AGAIN, other, "steps.again.dataset=other", *short), tmp_path, [seen])

    assert seen.seen == {"vae_gan": [(4, 3, 16, 16)] * 6, "again": [(3, 3, 32, 32)] * 4}
