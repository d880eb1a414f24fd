"""The watchdog tells of losses that are stuck, rise or are high, once each, and is quiet while all goes well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_observers.watchdog import Watchdog
from fluxflow_registry import Position, Summary

Told = Callable[..., Callable[..., None]]

FALLING = [1.0, 0.8, 0.7, 0.6, 0.5]


def warned(
    told: Told,
    run: Any,
    epochs: Mapping[str, Sequence[float]],
    step: int = 0,
    stops: Sequence[int] = (),
    **options: Any,
) -> list[str]:
    """What is warned of in a step whose metrics have these means; before the epochs `stops` it was stopped."""
    run.warnings.clear()
    tell = told(Watchdog(**options))
    for epoch in range(1, max(map(len, epochs.values())) + 1):
        if epoch in stops:
            tell = told(Watchdog(**options))
        name = run.steps[step].name
        run.history = {**run.history, name: {metric: means[: epoch - 1] for metric, means in epochs.items()}}
        summaries = {metric: Summary(means[epoch - 1], 0.0, 9.0, 0.0) for metric, means in epochs.items()}
        tell("epoch_ended", run, step=run.steps[step], position=Position(step, epoch), summaries=summaries)
    return list(run.warnings)


def test_a_loss_that_has_not_fallen_is_told_once_with_its_figures(told: Told, run: Any) -> None:
    found = warned(told, run, {"flow_loss": [1.0, 1.01, 0.995, 1.02, 1.0], "vae/l1": FALLING})

    assert found == [
        "step `vae_warmup`, epoch 3: `flow_loss` is stuck: 0.995, and 1 in the step's first epoch",
    ]


def test_a_loss_that_rises_again_is_told_when_it_does(told: Told, run: Any) -> None:
    found = warned(told, run, {"flow_loss": [1.0, 0.1, 0.2, 0.29, 0.31, 0.5]})

    assert found == [
        "step `vae_warmup`, epoch 5: `flow_loss` rises: 0.31, 3.1 times as much as in epoch 2 (0.1)",
    ]


def test_a_loss_above_a_stated_figure_is_high(told: Told, run: Any) -> None:
    epochs = {"vae/l1": [0.5, 0.4, 0.3, 0.25, 0.1], "vae/kl": [1.0, 2.0, 30.0, 40.0, 50.0]}

    found = warned(told, run, epochs, high={"vae/l1": 0.2, "vae/kl": 35.0})

    assert found == [
        "step `vae_warmup`, epoch 3: `vae/l1` is high: 0.3, above 0.2",
        "step `vae_warmup`, epoch 4: `vae/kl` is high: 40, above 35",
    ]


@pytest.mark.parametrize(
    "metric",
    ["discriminator_loss", "discriminator/hinge_discriminator", "discriminator/r1", "vae/hinge_generator", "vae/kl",
     "vae/lr", "vae/grad_norm", "vae/kl/weight", "held_out"],
)  # fmt: skip
@pytest.mark.parametrize("means", [[1.0, 1.0, 1.0, 1.0], [0.1, 1.0, 10.0, 100.0]])
def test_what_hovers_or_grows_by_its_nature_is_no_reason_to_warn(
    told: Told, run: Any, metric: str, means: list[float]
) -> None:
    assert warned(told, run, {metric: means}) == []


def test_a_loss_that_an_earlier_step_has_brought_down_may_stay_where_it_is(told: Told, run: Any) -> None:
    run.history = {"vae_warmup": {"vae/l1": FALLING}}

    found = warned(told, run, {"vae/l1": [0.5, 0.5, 0.5, 0.5], "vae/lpips": [0.3, 0.3, 0.3, 0.3]}, step=1)

    assert found == ["step `flow`, epoch 3: `vae/lpips` is stuck: 0.3, and 0.3 in the step's first epoch"]


def test_a_loss_below_zero_has_no_multiple(told: Told, run: Any) -> None:
    assert warned(told, run, {"vae_loss": [-1.0, -0.5, 0.5, 3.0]}) == []


@given(
    st.lists(st.floats(0.01, 10), min_size=3, max_size=7),
    st.sets(st.integers(2, 7)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_goes_on_warns_of_what_a_whole_one_warns_of(
    told: Told, run: Any, means: list[float], stops: set[int]
) -> None:
    whole = warned(told, run, {"flow_loss": means})

    assert warned(told, run, {"flow_loss": means}, stops=sorted(stops)) == whole
    assert len({message.split("`flow_loss`")[1][:9] for message in whole}) == len(whole), "each kind once"


@given(st.floats(0.02, 0.9), st.integers(3, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_loss_that_falls_is_never_told(told: Told, run: Any, factor: float, epochs: int) -> None:
    assert warned(told, run, {"flow_loss": [factor**epoch for epoch in range(epochs)]}) == []


@pytest.mark.parametrize(
    "options",
    [{"after": 1}, {"min_change": 0.0}, {"min_change": 1.0}, {"rise": 1.0}, {"ignore": [""]}, {"high": {"": 1.0}}],
)
def test_options_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Watchdog(**options)
