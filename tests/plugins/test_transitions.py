"""Transitions: when a step ends and with which reason, for histories written by hand and in runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry import Ending, Summary, hookimpl
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.loop import train
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_transitions.transitions import AllOf, AnyOf, Condition, LossThreshold, Plateau, SumThreshold, epoch

from ..small import PLUGINS, VAE_GAN

Prove = Callable[..., RecipePlan]
VALUES = st.lists(st.floats(-1e3, 1e3), max_size=12)


def history(*values: float, **others: Sequence[float]) -> dict[str, list[Summary]]:
    """Epochs with a constant metric in each."""
    named = {"loss": values, **others}
    return {name: [Summary(v, v, v, v) for v in each] for name, each in named.items()}


def ends(until: Any, values: Sequence[float], epochs: int) -> tuple[int, Ending]:
    """The epoch after which a step with these values ends, and why."""
    for done in range(1, epochs + 1):
        ending = until(done, epochs, history(*values[:done]))
        if ending is not None:
            return done, ending
    raise AssertionError("a step ends with its epochs")


def test_the_transition_epoch_ends_after_the_epochs_of_the_step() -> None:
    assert epoch(1, 2) is None
    assert epoch(2, 2) == Ending("2 epochs")


def test_a_threshold_must_hold_for_its_patience_and_not_before_min_epochs() -> None:
    patient = LossThreshold("loss", 0.5, patience=2, min_epochs=3, max_epochs=9)

    assert patient(2, 9, history(0.4, 0.4)) is None
    assert patient(3, 9, history(0.4, 0.6, 0.4)) is None
    assert patient(4, 9, history(0.4, 0.6, 0.4, 0.3)) == Ending("loss 0.3 < 0.5 after 4 epochs")


def test_a_threshold_uses_the_last_twenty_values_and_a_plateau_the_mean_of_the_epoch() -> None:
    late = {"loss": [Summary(mean=1.0, minimum=0.0, maximum=2.0, smoothed=0.25)] * 2}

    assert LossThreshold("loss", 0.5)(2, 9, late) == Ending("loss 0.25 < 0.5 after 2 epochs")
    assert Plateau("loss", patience=1)(2, 9, late) == Ending("loss no better than 1 for 1 epoch")


def test_a_threshold_in_mode_above_ends_for_a_rising_metric() -> None:
    rising = LossThreshold("loss", 20.0, mode="above")

    assert ends(rising, [18.0, 19.0, 21.0, 22.0], 9) == (3, Ending("loss 21 > 20 after 3 epochs"))


def test_a_threshold_that_is_never_met_ends_at_its_limit_with_the_reason() -> None:
    found = LossThreshold("loss", 0.5, max_epochs=2)(2, 5, history(1.0, 0.75))

    assert found == Ending("2 epochs with loss 0.75, not below 0.5", limit=True)
    assert LossThreshold("loss", 0.5)(4, 5, history(1.0)) is None
    assert LossThreshold("loss", 0.5)(5, 5, {}) == Ending("5 epochs with loss never logged, not below 0.5", limit=True)


def test_a_sum_of_metrics_must_fall_below_its_threshold_for_its_patience() -> None:
    patient = SumThreshold(terms={"loss": 1.0, "other": 0.5}, threshold=1.0, patience=2, min_epochs=2)

    assert patient(1, 9, history(0.5, other=[0.5])) is None
    assert patient(2, 9, history(0.5, 0.5, other=[0.5, 1.5])) is None
    assert patient(2, 9, history(0.5, 0.25, other=[0.5, 1.0])) == Ending("loss + 0.5 other 0.75 < 1 after 2 epochs")
    assert patient.metrics() == ["loss", "other"]


def test_a_sum_counts_the_epochs_that_logged_every_metric_and_ends_at_its_limit() -> None:
    both = SumThreshold(terms={"loss": 1.0, "late": 2.0}, threshold=1.0, max_epochs=3)

    assert both(2, 9, history(0.1, 0.2)) is None
    assert both(2, 9, history(9.0, 0.2, late=[0.3])) == Ending("loss + 2 late 0.8 < 1 after 2 epochs")
    assert both(3, 9, history(9.0, 9.0, 9.0, late=[0.3])) == Ending(
        "3 epochs with loss + 2 late 9.6, not below 1", limit=True
    )
    assert both(3, 9, history(9.0)) == Ending("3 epochs with loss + 2 late never logged, not below 1", limit=True)


@pytest.mark.parametrize(
    ("options", "values", "last"),
    [
        ({"patience": 2}, [3, 2, 1, 1, 1, 0], 5),
        ({"patience": 2}, [3, 2, 1, 1, 0.9, 1, 1, 0], 7),
        ({"patience": 1, "min_delta": 0.5}, [3, 2, 1.5, 1.0, 0.0], 3),
        ({"patience": 1, "min_delta": 0.1, "relative": True}, [-10, -11.5, -12.5, -20], 3),
        ({"patience": 1, "min_delta": 0.1}, [-10, -11.5, -12.5, -12.55, -20], 4),
        ({"patience": 2, "mode": "max"}, [1, 2, 3, 2.5, 2.9, 9], 5),
        ({"patience": 1, "min_epochs": 4}, [1, 1, 1, 1, 1], 4),
        ({"patience": 1, "min_epochs": 4}, [4, 4, 4, 3, 3, 3], 5),
        ({"patience": 2}, [math.nan, 3, math.nan, 2, math.nan, math.inf, 1], 6),
    ],
)
def test_a_plateau_ends_after_its_patience_without_an_improvement(
    options: dict[str, Any], values: list[float], last: int
) -> None:
    found, ending = ends(Plateau("loss", **options), values, 9)

    assert found == last
    assert not ending.limit
    assert ending.reason.startswith("loss no better than ")


def test_an_improvement_is_measured_against_the_best_epoch_not_the_previous_one() -> None:
    """Small improvements add up: one is less than min_delta, two are more."""
    creeping = [1.0 - 0.06 * n for n in range(9)]

    assert ends(Plateau("loss", patience=2, min_delta=0.1), creeping, 9)[1].limit
    assert ends(Plateau("loss", patience=1, min_delta=0.1), creeping, 9)[0] == 2


def test_a_plateau_that_is_never_reached_ends_at_its_limit_with_the_reason() -> None:
    falling = [9.0 - n for n in range(9)]

    assert ends(Plateau("loss", max_epochs=3), falling, 9) == (
        3,
        Ending("3 epochs with loss 7, not on a plateau", limit=True),
    )
    assert ends(Plateau("loss"), falling, 2)[0] == 2
    assert Plateau("loss")(4, 4, {}) == Ending("4 epochs with loss never logged", limit=True)


@given(values=VALUES, patience=st.integers(1, 4), delta=st.floats(0, 10), relative=st.booleans(), up=st.booleans())
def test_a_plateau_is_symmetric_in_its_mode_and_not_sooner_with_more_patience(
    values: list[float], patience: int, delta: float, relative: bool, up: bool
) -> None:
    def last(patience: int, sign: int) -> int:
        mode: Any = "max" if (sign < 0) != up else "min"
        return ends(Plateau("loss", patience, delta, relative, mode), [sign * v for v in values], 12)[0]

    assert last(patience, 1) == last(patience, -1)
    assert last(patience, 1) <= last(patience + 1, 1)


def test_all_ends_when_every_condition_is_met_after_the_same_epoch() -> None:
    both = AllOf([Condition(epochs=3), Condition(metric="loss", below=0.5, patience=2)])

    assert ends(both, [0.4, 0.4, 0.6, 0.4, 0.3], 9) == (5, Ending("5 epochs and loss 0.3 < 0.5"))
    assert ends(both, [0.4] * 9, 9)[0] == 3


def test_any_ends_at_the_first_condition_that_is_met() -> None:
    either = AnyOf([Condition(metric="loss", above=30.0), Condition(metric="loss", plateau=2, mode="max")])

    assert ends(either, [10, 20, 31], 9) == (3, Ending("loss 31 > 30"))
    assert ends(either, [10, 20, 20, 20, 31], 9) == (4, Ending("loss no better than 20 for 2 epochs"))


def test_combinations_end_at_their_limit_and_name_the_unmet_conditions() -> None:
    conditions = [
        Condition(epochs=2),
        Condition(metric="loss", below=0.5),
        Condition(metric="psnr", above=30.0),
        Condition(metric="psnr", plateau=3),
    ]
    seen = history(1, 1, 1, psnr=[31, 31, 31])

    assert AllOf(conditions, max_epochs=3)(3, 9, seen) == Ending(
        "3 epochs without loss < 0.5 and a plateau of psnr", limit=True
    )
    assert AnyOf(conditions[1:2], max_epochs=3)(3, 9, seen) == Ending("3 epochs without loss < 0.5", limit=True)
    assert AnyOf(conditions[2:3], min_epochs=4)(3, 9, seen) is None
    assert AllOf(conditions[:1])(1, 9, {}) is None


@given(values=VALUES, below=st.floats(-1e3, 1e3), patience=st.integers(1, 3), least=st.integers(1, 4))
def test_a_combination_of_one_condition_ends_as_the_transition_of_that_condition(
    values: list[float], below: float, patience: int, least: int
) -> None:
    threshold = ends(LossThreshold("loss", below, patience=patience, min_epochs=least), values, 12)
    plateau = ends(Plateau("loss", patience, min_epochs=least), values, 12)

    for combined in (AllOf, AnyOf):
        as_threshold = combined([Condition(metric="loss", below=below, patience=patience)], min_epochs=least)
        as_plateau = combined([Condition(metric="loss", plateau=patience)], min_epochs=least)
        for found, expected in ((ends(as_threshold, values, 12), threshold), (ends(as_plateau, values, 12), plateau)):
            assert found[0] == expected[0]
            assert found[1].limit == expected[1].limit


@pytest.mark.parametrize(
    ("until", "at", "message"),
    [
        ("{type: all, conditions: []}", "[", "conditions is empty: list at least one condition"),
        (
            "{type: all, conditions: [{}]}",
            "[",
            "condition 1 of 1 must have exactly one of epochs, below, above, plateau, but has none",
        ),
        ("{type: all, conditions: [{epochs: 0}]}", "0", "must be >= 1, got 0"),
        (
            "{type: all, conditions: [{epochs: 1, metric: l}]}",
            "[",
            "condition 1 of 1 has `metric`, which does not apply to `epochs`",
        ),
        (
            "{type: any, conditions: [{epochs: 1}, {below: 1}]}",
            "[",
            "condition 2 of 2 has `below` but no `metric`: name the metric",
        ),
        ("{type: any, conditions: [{below: 1, plateau: 1}]}", "[", "plateau, but has below and plateau"),
        (
            "{type: any, conditions: [{metric: l, below: 1, mode: min}]}",
            "[",
            "has `mode`, which does not apply to `below`",
        ),
        (
            "{type: any, conditions: [{metric: l, plateau: 1, patience: 2}]}",
            "[",
            "has `patience`, which does not apply to `plateau`",
        ),
        ("{type: any, conditions: [{metrc: l}]}", "metrc", "unknown key `metrc`"),
        ("{type: any, conditions: [{epochs: 1}, {metric: 3}]}", "3", "must be a string"),
        ("{type: plateau, metric: l, min_epochs: 3, max_epochs: 2}", "2}", "max_epochs is 2, less than min_epochs"),
        (
            "{type: loss_threshold, metric: l, threshold: 1, min_epochs: 3, max_epochs: 2}",
            "2}",
            "less than min_epochs (3)",
        ),
        (
            "{type: plateau, metric: lost}",
            "lost",
            "transition `plateau` watches `lost`, but step `vae_gan` logs no such metric",
        ),
        ("{type: any, conditions: [{metric: lost, below: 1}]}", "{type", "transition `any` watches `lost`, but step"),
    ],
)
def test_options_that_contradict_each_other_are_reported_with_their_location(
    prove: Prove, until: str, at: str, message: str
) -> None:
    lines = VAE_GAN.splitlines()
    row = lines.index("    epochs: 2")
    lines.insert(row, f"    until: {until}")

    with pytest.raises(RecipeError) as caught:
        prove("\n".join(lines))

    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(problem.where).endswith(f"r.yaml:{row + 1}:{lines[row].index(at) + 1}")


class Listener:
    """Records the endings of steps and the warnings of a run."""

    def __init__(self) -> None:
        self.endings: list[Ending] = []
        self.warnings: list[str] = []

    @hookimpl
    def step_ended(self, ending: Ending) -> None:
        self.endings.append(ending)

    @hookimpl
    def warned(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Train the small recipe with a transition; returns its epochs, its ending and its warnings."""
    registry = load(PLUGINS)

    def start(until: str, *more: str) -> SimpleNamespace:
        (tmp_path / "r.yaml").write_text(VAE_GAN)
        short = ["steps.vae_gan.max_steps=2", "steps.vae_gan.epochs=4"]
        checked = check(tmp_path / "r.yaml", registry, [*short, f"steps.vae_gan.until={until}", *more])
        folder = folders.new(tmp_path, "small", "digest")
        folder.write_identity(finished=False)
        run = Run(checked, folder, open_sources(checked), torch.device("cpu"))
        listener = Listener()
        run.observers.register(listener)
        train(run)
        (ending,) = listener.endings
        past = run.live.metrics.history  # type: ignore[union-attr]
        return SimpleNamespace(epochs=len(past["vae_loss"]), ending=ending, warnings=listener.warnings)

    return start


SEEN = "steps.vae_gan.evaluate={seen: {dataset: shapes, samples: 4, every: 1, metrics: {psnr: {}}}}"


@pytest.mark.parametrize("metric", ["vae_loss", "vae/l1", "vae/grad_norm", "vae/lr", "discriminator_loss", "seen/psnr"])
def test_every_logged_metric_can_end_a_step(run: Callable[..., SimpleNamespace], metric: str) -> None:
    threshold = run(f"{{type: loss_threshold, metric: {metric}, threshold: 1.0e9, mode: below, min_epochs: 2}}", SEEN)
    never = run(f"{{type: plateau, metric: {metric}, patience: 2, min_delta: 1.0e9}}", SEEN)

    assert threshold.epochs == 2
    assert threshold.warnings == []
    assert never.epochs == 3
    assert never.ending.reason.startswith(f"{metric} no better than ")


@pytest.mark.parametrize(
    "until",
    [
        "{type: loss_threshold, metric: vae_loss, threshold: -1.0e9, max_epochs: 3}",
        "{type: plateau, metric: vae_loss, patience: 9, max_epochs: 3}",
        "{type: all, conditions: [{epochs: 2}, {metric: vae_loss, below: -1.0e9}], max_epochs: 3}",
        "{type: any, conditions: [{metric: vae_loss, above: 1.0e9}, {metric: vae/l1, plateau: 9}], max_epochs: 3}",
    ],
)
def test_an_ending_at_the_limit_is_a_warning(run: Callable[..., SimpleNamespace], until: str) -> None:
    found = run(until)

    assert found.epochs == 3
    assert found.ending.limit
    assert found.warnings == [f"step `vae_gan` ends because it reached its limit: {found.ending.reason}"]


def test_a_combination_ends_a_step_of_a_run(run: Callable[..., SimpleNamespace]) -> None:
    both = run("{type: all, conditions: [{epochs: 2}, {metric: seen/psnr, above: -1.0e9, patience: 2}]}", SEEN)
    first = run("{type: any, conditions: [{metric: vae_loss, below: -1.0e9}, {epochs: 1}]}")

    assert (both.epochs, first.epochs) == (2, 1)
    assert both.warnings == first.warnings == []
    assert first.ending == Ending("1 epoch")
