"""The watchdog reports losses that are stuck, rise or are high, once each, and is silent in a healthy training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_observers.watchdog import Watchdog
from fluxflow_registry import Position, Summary

Notifier = Callable[..., Callable[..., None]]

FALLING = [1.0, 0.8, 0.7, 0.6, 0.5]


def warnings(
    notifier: Notifier,
    run: Any,
    epochs: Mapping[str, Sequence[float]],
    step: int = 0,
    stops: Sequence[int] = (),
    **options: Any,
) -> list[str]:
    """The warnings of a step whose metrics have these means; the run is interrupted before the epochs `stops`."""
    run.warnings.clear()
    notify = notifier(Watchdog(**options))
    for epoch in range(1, max(map(len, epochs.values())) + 1):
        if epoch in stops:
            notify = notifier(Watchdog(**options))
        name = run.steps[step].name
        run.history = {**run.history, name: {metric: means[: epoch - 1] for metric, means in epochs.items()}}
        summaries = {metric: Summary(means[epoch - 1], 0.0, 9.0, 0.0) for metric, means in epochs.items()}
        notify("epoch_ended", run, step=run.steps[step], position=Position(step, epoch), summaries=summaries)
    return list(run.warnings)


def test_a_loss_that_has_not_fallen_is_reported_once_with_its_values(notifier: Notifier, run: Any) -> None:
    found = warnings(notifier, run, {"flow_loss": [1.0, 1.01, 0.995, 1.02, 1.0], "vae/l1": FALLING})

    assert found == [
        "step `vae_warmup`, epoch 3: `flow_loss` is stuck: 0.995, was 1 in the step's first epoch",
    ]


def test_a_loss_that_rises_again_is_reported_when_it_does(notifier: Notifier, run: Any) -> None:
    found = warnings(notifier, run, {"flow_loss": [1.0, 0.1, 0.2, 0.29, 0.31, 0.5]})

    assert found == [
        "step `vae_warmup`, epoch 5: `flow_loss` rises: 0.31, 3.1 times its value in epoch 2 (0.1)",
    ]


def test_a_loss_above_its_limit_is_high(notifier: Notifier, run: Any) -> None:
    epochs = {"vae/l1": [0.5, 0.4, 0.3, 0.25, 0.1], "vae/kl": [1.0, 2.0, 30.0, 40.0, 50.0]}

    found = warnings(notifier, run, epochs, high={"vae/l1": 0.2, "vae/kl": 35.0})

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
def test_losses_that_need_not_fall_cause_no_warning(
    notifier: Notifier, run: Any, metric: str, means: list[float]
) -> None:
    assert warnings(notifier, run, {metric: means}) == []


def test_a_loss_that_an_earlier_step_has_reduced_may_stay_level(notifier: Notifier, run: Any) -> None:
    run.history = {"vae_warmup": {"vae/l1": FALLING}}

    found = warnings(notifier, run, {"vae/l1": [0.5, 0.5, 0.5, 0.5], "vae/lpips": [0.3, 0.3, 0.3, 0.3]}, step=1)

    assert found == ["step `flow`, epoch 3: `vae/lpips` is stuck: 0.3, was 0.3 in the step's first epoch"]


def test_a_loss_below_zero_never_rises_by_a_factor(notifier: Notifier, run: Any) -> None:
    assert warnings(notifier, run, {"vae_loss": [-1.0, -0.5, 0.5, 3.0]}) == []


@given(
    st.lists(st.floats(0.01, 10), min_size=3, max_size=7),
    st.sets(st.integers(2, 7)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_resumed_run_gives_the_warnings_of_an_uninterrupted_one(
    notifier: Notifier, run: Any, means: list[float], stops: set[int]
) -> None:
    whole = warnings(notifier, run, {"flow_loss": means})

    assert warnings(notifier, run, {"flow_loss": means}, stops=sorted(stops)) == whole
    assert len({message.split("`flow_loss`")[1][:9] for message in whole}) == len(whole), "each kind once"


@given(st.floats(0.02, 0.9), st.integers(3, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_falling_loss_causes_no_warning(notifier: Notifier, run: Any, factor: float, epochs: int) -> None:
    assert warnings(notifier, run, {"flow_loss": [factor**epoch for epoch in range(epochs)]}) == []


def logged(notifier: Notifier, run: Any, name: str, values: Sequence[float]) -> list[str]:
    """The warnings of a first epoch in which a loss has these values when it is logged."""
    run.warnings.clear()
    notify, step = notifier(Watchdog()), run.steps[0]
    for batch, value in enumerate(values, 1):
        position = Position(batch=batch, step_batch=batch, run_batch=batch)
        notify("metrics_logged", run, step=step, position=position, metrics={name: value})
    return list(run.warnings)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("vae/l1", [0.5, 0.4, 3e3, 1e14], "after 3 batches: `vae/l1` explodes: 3000, its lowest value was 0.4"),
        ("flow_loss", [1.0, 1e14], "after 2 batches: `flow_loss` explodes: 1e+14, its lowest value was 1"),
        ("discriminator_loss", [2.0, 1e14], "`discriminator_loss` explodes: 1e+14, its lowest value was 2"),
        ("vae/hinge_generator", [-0.3, 0.1, 1e9], "`vae/hinge_generator` explodes: 1e+09, its lowest value was -0.3"),
        ("vae_loss", [float("nan"), 0.5, float("inf"), 1e14], "after 4 batches: `vae_loss` explodes: 1e+14"),
    ],
)
def test_a_loss_that_explodes_is_reported_within_the_first_epoch_and_once(
    notifier: Notifier, run: Any, name: str, values: list[float], words: str
) -> None:
    (warning,) = logged(notifier, run, name, values)

    assert words in warning


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vae/l1", [0.5, 1e-6, 0.5]),
        ("vae/kl", [1e-3, 500.0]),
        ("generator_loss", [0.0003, -0.2, 0.5, 40.0]),
        ("flow_loss", [5e5, 4e5, 3e6]),
        ("vae/grad_norm", [0.1, 1e9]),
        ("vae/lr", [1e-9, 1e9]),
        ("vae_loss", [float("nan"), float("inf")]),
    ],
)
def test_a_loss_that_jumps_or_has_another_scale_does_not_explode(
    notifier: Notifier, run: Any, name: str, values: list[float]
) -> None:
    assert logged(notifier, run, name, values) == []


def test_a_loss_that_explodes_between_two_logged_batches_is_reported_at_the_end_of_the_epoch(
    notifier: Notifier, run: Any
) -> None:
    run.warnings.clear()
    notify = notifier(Watchdog())
    summaries = {"vae_loss": Summary(5e12, 0.3, 1e14, 5e12)}

    for _ in range(2):
        position = Position(epoch=1, step_batch=16)
        notify("epoch_ended", run, step=run.steps[0], position=position, summaries=summaries)

    assert run.warnings == ["step `vae_warmup`, after 16 batches: `vae_loss` explodes: 5e+12, its lowest value was 0.3"]


@pytest.mark.parametrize(
    "options",
    [{"after": 1}, {"min_change": 0.0}, {"min_change": 1.0}, {"rise": 1.0}, {"ignore": [""]}, {"high": {"": 1.0}}],
)
def test_invalid_options_are_rejected(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Watchdog(**options)
