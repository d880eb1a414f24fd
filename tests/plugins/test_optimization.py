"""Optimizers and schedulers as torch has them, transitions, and balancers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_balancers.inverse import Inverse, fixed
from fluxflow_registry import Ending, Summary
from fluxflow_torch import optimizers, schedulers
from fluxflow_transitions import LossThreshold, epoch

OPTIMIZERS = [optimizers.AdamW, optimizers.Adam, optimizers.SGD, optimizers.RMSprop]


@pytest.mark.parametrize("options", OPTIMIZERS)
def test_an_optimizer_is_torchs_own_with_torchs_options(options: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))

    made = options(lr=0.125, weight_decay=0.25)([parameter])
    before = parameter.detach().clone()
    parameter.grad = torch.ones(3)
    made.step()

    assert type(made) is getattr(torch.optim, options.__name__)
    for name, value in attrs.asdict(options(lr=0.125, weight_decay=0.25)).items():
        assert made.param_groups[0][name] == value
    assert not torch.equal(before, parameter)


@pytest.mark.parametrize("options", OPTIMIZERS)
@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": -1.0}, {"weight_decay": -1.0}])
def test_an_optimizer_refuses_what_is_out_of_bounds(options: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        options(**wrong)


def test_betas_out_of_bounds_and_nesterov_without_momentum_are_refused() -> None:
    with pytest.raises(ValueError, match=r"betas are in \[0, 1\), not \[0.9, 1.0\]"):
        optimizers.AdamW(betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="nesterov needs momentum above 0 and no dampening"):
        optimizers.SGD(nesterov=True)


def rates(scheduler: Any, total: int, lr: float = 1.0, metrics: Sequence[float] | None = None) -> list[float]:
    """The rate at each interval."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    offered = {"optimizer": optimizer, "total": total}
    names = scheduler.__call__.__code__.co_varnames[1 : scheduler.__call__.__code__.co_argcount]
    made = scheduler(**{name: offered[name] for name in names})
    found = []
    for index in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step(*([metrics[index]] if metrics else []))
    return found


def test_cosine_falls_to_its_share_at_the_steps_end() -> None:
    found = rates(schedulers.CosineAnnealingLR(eta_min_factor=0.1), 100)

    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * n / 100)) / 2 for n in range(100)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_warm_up_rises_linearly_and_then_the_schedule_begins() -> None:
    found = rates(schedulers.CosineAnnealingLR(warmup=10), 60)

    assert found[:10] == pytest.approx([0.01 + 0.99 * n / 10 for n in range(10)], abs=1e-6)
    assert found[10] == pytest.approx(1.0)
    assert found[35] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (schedulers.StepLR(step_size=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (schedulers.ExponentialLR(gamma=0.5), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (schedulers.LinearLR(start_factor=0.5, end_factor=1.0, total_iters=4), [0.5, 0.625, 0.75, 0.875, 1, 1]),
        (schedulers.ConstantLR(factor=0.5, total_iters=3), [0.5, 0.5, 0.5, 1, 1, 1]),
    ],
)
def test_schedules_are_what_their_names_say(scheduler: Any, expected: list[float]) -> None:
    assert rates(scheduler, 6) == pytest.approx(expected)


def test_one_cycle_rises_to_the_rate_and_falls_far_below_its_start() -> None:
    found = rates(schedulers.OneCycleLR(pct_start=0.25, div_factor=10), 100)

    assert found[0] == pytest.approx(0.1)
    assert max(found) == pytest.approx(1.0, abs=0.01)
    assert found[-1] < 0.01


def test_reduce_on_plateau_falls_when_the_loss_stops_falling() -> None:
    losses = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5]

    found = rates(schedulers.ReduceLROnPlateau(factor=0.1, patience=1), 6, metrics=losses)

    assert found[:4] == [1.0] * 4
    assert found[4] == pytest.approx(0.1)


def history(*smoothed: float) -> dict[str, list[Summary]]:
    return {"loss": [Summary(s, s, s, s) for s in smoothed]}


def test_an_epoch_transition_ends_after_the_steps_epochs() -> None:
    assert epoch(1, 2) is None
    assert epoch(2, 2) == Ending("2 epochs")


def test_a_threshold_must_hold_for_its_patience_and_not_before_the_least_epochs() -> None:
    patient = LossThreshold("loss", 0.5, patience=2, min_epochs=3, max_epochs=9)

    assert patient(2, 9, history(0.4, 0.4)) is None
    assert patient(3, 9, history(0.4, 0.6, 0.4)) is None
    assert patient(4, 9, history(0.4, 0.6, 0.4, 0.3)) == Ending("loss 0.3 < 0.5 after 4 epochs")


def test_a_threshold_that_is_never_met_ends_by_its_limit_and_says_so() -> None:
    found = LossThreshold("loss", 0.5, max_epochs=2)(2, 5, history(1.0, 0.75))

    assert found == Ending("2 epochs with loss 0.75, not below 0.5", limit=True)
    assert LossThreshold("loss", 0.5)(4, 5, history(1.0)) is None


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=20),
)
@settings(max_examples=50, deadline=None)
def test_inverse_factors_are_positive_and_bounded_whatever_the_losses(rows: list[tuple[float, ...]]) -> None:
    weigher = Inverse(window=5, low=0.1, high=10.0)(["a", "b", "c"])

    for row in rows:
        factors = weigher({name: torch.tensor(value) for name, value in zip("abc", row, strict=True)})

    assert all(0.1 <= factor <= 10.0 for factor in factors.values())


def test_inverse_brings_losses_to_one_size_and_remembers_across_a_save() -> None:
    weigher = Inverse(window=10)(["large", "small"])
    for _ in range(10):
        factors = weigher({"large": torch.tensor(4.0), "small": torch.tensor(-1.0)})
    again = Inverse(window=10)(["large", "small"])
    again.load_state_dict(weigher.state_dict())

    assert factors == pytest.approx({"large": 2.5 / 4, "small": 2.5})
    assert again.state_dict() == weigher.state_dict()
    assert fixed(["a"])({}) == {"a": 1.0}


def test_a_loss_that_is_not_finite_does_not_enter_the_averages() -> None:
    weigher = Inverse()(["a", "b"])
    weigher({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})

    factors = weigher({"a": torch.tensor(math.nan), "b": torch.tensor(1.0)})

    assert factors == pytest.approx({"a": 1.0, "b": 1.0})
