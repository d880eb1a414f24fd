"""A batch with a loss or a gradient that is not finite moves nothing, and is counted and named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from fluxflow_registry import hookimpl
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry

from .conftest import changed, start, weights
from .poison import (
    KEEPING,
    POISONED,
    Poison,
    bad_gradient,
    bad_loss,
    differing,
    first_batches,
    infinite_loss,
    kept,
    poisoned,
    spoil,
    take,
)
from .test_resume import Listener

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]

LOSSES = [
    (0, "discriminator", "hinge_discriminator"),
    (0, "discriminator", "r1"),
    (0, "vae", "l1"),
    (0, "vae", "poison"),
    (0, "vae", "kl"),
    (0, "vae", "hinge_generator"),
    (1, "flow", "velocity"),
    (1, "flow", "poison"),
]
PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.fixture(scope="module")
def with_poison() -> Registry:
    return poisoned()


def ready(checked: Checker, live: Maker, using: Registry, step: int, precision: str = "fp32") -> LiveStep:
    settings = [f"steps.{name}.precision={precision}" for name in ("vae_gan", "flow")]
    return live(checked(KEEPING, *settings, using=using), step)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("step", "update", "label"), LOSSES)
def test_a_loss_that_is_not_finite_moves_nothing_of_its_update(
    checked: Checker, live: Maker, with_poison: Registry, step: int, update: str, label: str, precision: str
) -> None:
    training = ready(checked, live, with_poison, step, precision)
    turn = next(turn for turn in training.updates if turn.name == update)
    spoil(training, update, label, bad_loss, [2])
    batches = first_batches(training, 4)
    take(training, batches[:2], 0)
    before = kept(training, [update])

    take(training, batches[2:3], 2)

    assert differing(before, kept(training, [update])) == []
    assert (turn.outcome, turn.skips, turn.skipped_in_a_row, turn.skipping_since) == ("skipped", 1, 1, 2)
    assert turn.evidence is not None
    assert turn.evidence.losses_not_finite == [label]
    assert math.isnan(training.metrics.fetch()[f"{update}/{label}"])
    take(training, batches[3:], 3)
    assert differing(before, kept(training, [update]))
    assert (turn.outcome, turn.skips, turn.skipped_in_a_row) == ("stepped", 1, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("step", "update", "label"), LOSSES)
def test_a_gradient_that_is_not_finite_moves_nothing_though_every_loss_is_finite(
    checked: Checker, live: Maker, with_poison: Registry, step: int, update: str, label: str, precision: str
) -> None:
    training = ready(checked, live, with_poison, step, precision)
    turn = next(turn for turn in training.updates if turn.name == update)
    spoil(training, update, label, bad_gradient, [2])
    batches = first_batches(training, 3)
    take(training, batches[:2], 0)
    before = kept(training, [update])

    take(training, batches[2:], 2)

    assert differing(before, kept(training, [update])) == []
    assert (turn.outcome, turn.skips) == ("skipped", 1)
    assert turn.evidence is not None
    assert turn.evidence.losses_not_finite == []
    assert turn.evidence.gradients
    assert all(math.isfinite(loss) for loss in turn.evidence.losses[0].values())


def test_a_gradient_that_overflows_at_a_large_scale_lowers_the_scale_and_is_not_counted(
    checked: Checker, live: Maker, with_poison: Registry
) -> None:
    training = ready(checked, live, with_poison, 0, "fp16")
    vae = training.updates[1]
    spoil(training, "vae", "l1", bad_gradient, [2])
    batches = first_batches(training, 3)
    take(training, batches[:2], 0)
    before, scale = kept(training, ["vae"]), vae.optimizer.scaler.get_scale()  # type: ignore[union-attr]

    take(training, batches[2:], 2)

    assert vae.outcome == "overflowed"
    assert (vae.skips, vae.skipped_in_a_row) == (0, 0)
    assert vae.optimizer.scaler.get_scale() == scale / 2  # type: ignore[union-attr]
    assert differing(before, kept(training, ["vae"])) == ["plain"]  # the scale is a plain number


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("step", [0, 1])
def test_one_pixel_that_is_not_finite_moves_nothing_at_all(
    checked: Checker, live: Maker, with_poison: Registry, step: int, precision: str, number: float
) -> None:
    training = ready(checked, live, with_poison, step, precision)
    updates = [turn.name for turn in training.updates]
    first, second, third = first_batches(training, 3)
    take(training, [first, second], 0)
    before = kept(training, updates)
    image = third.fields["image"].clone()
    image[1, 2, 3, 4] = number

    take(training, [evolve(third, fields={**third.fields, "image": image})], 2)

    assert differing(before, kept(training, updates)) == []
    assert [turn.outcome for turn in training.updates] == ["skipped"] * len(updates)
    evidence = training.updates[0].evidence
    assert evidence is not None
    assert next(iter(evidence.values)) == "image"
    assert evidence.values["image"]["nan" if math.isnan(number) else "inf"] == 1


@pytest.mark.parametrize(("guilty", "other"), [("vae", "discriminator"), ("discriminator", "vae")])
def test_the_other_update_of_the_batch_goes_on_and_keeps_what_it_learnt(
    checked: Checker, live: Maker, with_poison: Registry, guilty: str, other: str
) -> None:
    text = KEEPING.replace(
        "lr: 1.0e-3}\n      vae", "lr: 1.0e-3}\n        balancer: {type: inverse, window: 5}\n      vae"
    )
    training = live(checked(text, using=with_poison))
    spoil(training, guilty, {"vae": "l1", "discriminator": "hinge_discriminator"}[guilty], infinite_loss, [2])
    batches = first_batches(training, 3)
    take(training, batches[:2], 0)
    before = weights(training.models)
    turn = next(turn for turn in training.updates if turn.name == other)
    learnt = turn.state()["weigher"]

    take(training, batches[2:], 2)

    moved = {"vae": {"compressor", "expander"}, "discriminator": {"discriminator"}}
    assert changed(before, training.models) == moved[other]
    assert (turn.outcome, turn.steps) == ("stepped", 3)
    assert turn.state()["weigher"] != learnt
    others = next(turn for turn in training.updates if turn.name == guilty).state()["weigher"]
    assert {len(values) for values in others.values()} <= {1, 2}


def test_a_window_of_batches_is_left_out_whole(
    checked: Checker, with_poison: Registry, live: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poison, "bad", lambda batch: batch == 3)
    training = live(checked(POISONED, "steps.vae_gan.accumulate=3", using=with_poison))
    batches = first_batches(training, 6)
    take(training, batches[:3], 0)
    before = kept(training, ["vae"])

    take(training, batches[3:], 3)

    assert differing(before, kept(training, ["vae"])) == []
    assert (training.updates[1].skips, training.updates[0].steps) == (1, 2)


def test_the_warning_of_a_window_names_the_samples_of_the_batch_at_fault(
    checked: Checker, with_poison: Registry, live: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poison, "bad", lambda batch: batch == 3)
    recipe = checked(POISONED, "steps.vae_gan.accumulate=3", "steps.vae_gan.epochs=1", using=with_poison)
    batches = first_batches(live(recipe), 6)
    heard: list[str] = []

    start(recipe, tmp_path, [Listener(heard)])

    assert "update `vae`: `vae/poison` is not finite; batches 4 to 6 were skipped" in heard[0]
    assert f"received  samples {', '.join(map(str, batches[3].indices))}\n" in heard[0]


class Logged:
    """Collects the figures of every batch and of every epoch."""

    def __init__(self) -> None:
        self.batches: dict[int, Any] = {}
        self.epochs: list[Any] = []

    @hookimpl
    def metrics_logged(self, position: Any, metrics: Any) -> None:
        self.batches[position.run_batch] = dict(metrics)

    @hookimpl
    def epoch_ended(self, summaries: Any) -> None:
        self.epochs.append(summaries)


def test_a_metric_that_is_not_finite_is_logged_and_not_counted_in_the_mean(
    checked: Checker, with_poison: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poison, "bad", lambda batch: batch == 3)
    recipe = checked(POISONED, "defaults.log_every=1", "steps.vae_gan.epochs=1", using=with_poison)
    logged = Logged()

    start(recipe, tmp_path, [logged])

    assert all(math.isnan(logged.batches[4][name]) for name in ("vae/poison", "vae_loss", "vae/grad_norm"))
    counted = [logged.batches[batch]["vae/poison"] for batch in (1, 2, 3, 5, 6)]
    assert logged.epochs[0]["vae/poison"].mean == pytest.approx(sum(counted) / 5)
    assert logged.epochs[0]["vae/poison"].minimum == min(counted) != 0.0


def test_skipped_batches_are_reported_at_the_end_and_overflows_of_a_scaler_are_not(
    checked: Checker, with_poison: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poison, "bad", lambda batch: batch in (3, 4, 8))
    plain: list[str] = []
    half: list[str] = []

    start(checked(POISONED, using=with_poison), tmp_path / "a", [Listener(plain)])
    monkeypatch.setattr(Poison, "bad", lambda batch: False)
    ended = start(
        checked(POISONED, "steps.vae_gan.precision=fp16", using=with_poison), tmp_path / "b", [Listener(half)]
    )

    assert "update `vae`: 3 of 12 batches were skipped as not finite" in plain
    assert len(plain) == 3  # two streaks, and the sum
    assert half == []
    assert ended.run.live.updates[1].steps <= 12


def test_an_optimizer_that_has_met_nan_first_still_begins_as_a_fresh_one(
    checked: Checker, live: Maker, with_poison: Registry
) -> None:
    training = ready(checked, live, with_poison, 0)
    fresh = ready(checked, live, with_poison, 0)
    spoil(training, "vae", "l1", bad_loss, [0])

    take(training, first_batches(training, 1), 0)

    assert differing(kept(fresh, ["vae"]), kept(training, ["vae"])) == []
    assert torch.equal(training.averages["expander"].module.norm.running_mean, torch.zeros(3))  # type: ignore[arg-type, union-attr]
