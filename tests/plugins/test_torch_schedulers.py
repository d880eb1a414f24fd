"""Schedulers: torch's own rates, the effect of every option, the warm-up, and resuming."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state.store import pack, unpack
from fluxflow_torch import schedulers

from ..small import VAE_GAN, sized

#: For each scheduler, options with which every other option has an effect within twelve intervals.
BASE: dict[Any, dict[str, Any]] = {
    schedulers.CosineAnnealingLRBuilder: {},
    schedulers.StepLRBuilder: {"step_size": 2, "gamma": 0.5},
    schedulers.ExponentialLRBuilder: {},
    schedulers.LinearLRBuilder: {},
    schedulers.ConstantLRBuilder: {},
    schedulers.OneCycleLRBuilder: {},
    schedulers.ReduceLROnPlateauBuilder: {"patience": 1},
}
OTHER: dict[str, Any] = {
    "eta_min_factor": 0.5,
    "T_max": 5,
    "step_size": 3,
    "gamma": 0.25,
    "start_factor": 0.5,
    "end_factor": 0.0,
    "total_iters": 3,
    "factor": 0.25,
    "pct_start": 0.5,
    "anneal_strategy": "linear",
    "div_factor": 5.0,
    "final_div_factor": 5.0,
    "three_phase": True,
    "mode": "max",
    "patience": 3,
    "threshold": 0.9,
    "threshold_mode": "abs",
    "cooldown": 2,
    "min_lr": 0.05,
    "eps": 0.95,
    "warmup": 3,
}
#: The loss of each epoch: it falls, stays constant, and falls a little.
LOSSES = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.39999, 0.39998, 0.39997, 0.39996, 0.39995]
MOMENTA: dict[str, Any] = {"cycle_momentum": True, "base_momentum": 0.5, "max_momentum": 0.75}


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, momentum=0.25)


def torch_name(builder: Any) -> str:
    """The name of torch's class that a builder builds."""
    return str(builder.__name__).removesuffix("Builder")


def build(builder: Any, optimizer: torch.optim.Optimizer, total: int) -> Any:
    arguments = {"optimizer": optimizer, "total": total}
    return builder(**{name: arguments[name] for name in inspect.signature(builder).parameters})


def step(scheduler: Any, optimizer: torch.optim.Optimizer, loss: float) -> None:
    optimizer.step()
    scheduler.step(*([loss] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))


def rates(
    builder: Any, total: int = 12, lr: Sequence[float] = (1.0,), losses: Sequence[float] = LOSSES, key: str = "lr"
) -> list[Any]:
    """The rate at each interval, or the rates of all groups if there are several."""
    with_rates = optimizer(*lr)
    scheduler = build(builder, with_rates, total)
    found: list[Any] = []
    for index in range(total):
        now = [group[key] for group in with_rates.param_groups]
        found.append(now if len(now) > 1 else now[0])
        step(scheduler, with_rates, losses[index % len(losses)])
    return found


@pytest.mark.parametrize("builder", BASE, ids=torch_name)
def test_every_option_of_torch_exists_or_is_listed_as_left_out(builder: Any) -> None:
    theirs = dict(inspect.signature(getattr(torch.optim.lr_scheduler, torch_name(builder))).parameters)
    ours = {field.name: field.default for field in attrs.fields(builder)}

    assert set(theirs) - set(schedulers.LEFT_OUT) == set(ours) - {"interval", "warmup", "eta_min_factor", "metric"}
    changed = {
        name for name in set(theirs) & set(ours) if theirs[name].default not in (ours[name], inspect.Parameter.empty)
    }
    # The step sets the length of a schedule, only the rate changes, and a metric defines its own direction.
    assert changed <= {"total_iters", "cycle_momentum", "mode"}
    assert ours["interval"] == ("batch" if builder is schedulers.OneCycleLRBuilder else "epoch")


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        (builder, field.name)
        for builder in BASE
        for field in attrs.fields(builder)
        if field.name not in ("interval", "metric", *MOMENTA)  # these have their own tests
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_every_option_changes_the_rates(builder: Any, name: str) -> None:
    assert rates(builder(**{**BASE[builder], name: OTHER[name]})) != rates(builder(**BASE[builder]))


@pytest.mark.parametrize("name", MOMENTA)
def test_the_momentum_options_change_the_momentum_but_not_the_rates(name: str) -> None:
    default = {field.name: field.default for field in attrs.fields(schedulers.OneCycleLRBuilder)}[name]
    other = schedulers.OneCycleLRBuilder(**{**MOMENTA, name: default})

    assert rates(other, key="momentum") != rates(schedulers.OneCycleLRBuilder(**MOMENTA), key="momentum")
    assert rates(other) == rates(schedulers.OneCycleLRBuilder())
    assert rates(schedulers.OneCycleLRBuilder(), key="momentum") == [0.25] * 12


@pytest.mark.parametrize("builder", BASE, ids=torch_name)
def test_after_a_warmup_from_a_hundredth_the_schedule_is_that_of_torch(builder: Any) -> None:
    plain = rates(builder(**BASE[builder]), total=9)
    warmed = rates(builder(**BASE[builder], warmup=3), total=12, losses=[9.0, 9.0, 9.0, *LOSSES])

    first = 1.0 if builder in (schedulers.LinearLRBuilder, schedulers.ConstantLRBuilder) else plain[0]
    assert warmed[:3] == pytest.approx([first * (0.01 + 0.99 * n / 3) for n in range(3)])
    assert warmed[3:] == pytest.approx(plain)


@given(total=st.integers(1, 40), lr=st.floats(1e-5, 10), share=st.floats(0, 1), warmup=st.integers(0, 5))
@settings(max_examples=50)
def test_a_cosine_falls_to_its_last_share_at_the_end_of_the_step(
    total: int, lr: float, share: float, warmup: int
) -> None:
    length = max(total - warmup, 1)

    found = rates(schedulers.CosineAnnealingLRBuilder(eta_min_factor=share, warmup=warmup), total, [lr])[warmup:]

    wave = [share + (1 - share) * (1 + math.cos(math.pi * n / length)) / 2 for n in range(len(found))]
    assert found == pytest.approx([lr * part for part in wave], rel=1e-6, abs=lr * 1e-9)


@pytest.mark.parametrize("builder", BASE, ids=torch_name)
@pytest.mark.parametrize("warmup", [0, 3])
def test_each_parameter_group_is_scheduled_from_its_own_rate(builder: Any, warmup: int) -> None:
    scheduler = builder(**BASE[builder], warmup=warmup)

    both = rates(scheduler, lr=[1.0, 0.125])

    assert [first for first, _ in both] == pytest.approx(rates(scheduler))
    assert [second for _, second in both] == pytest.approx(rates(scheduler, lr=[0.125]))


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (schedulers.StepLRBuilder(step_size=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (schedulers.StepLRBuilder(gamma=0.5), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (schedulers.ExponentialLRBuilder(gamma=0.5), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (schedulers.LinearLRBuilder(start_factor=0.5, end_factor=1.0, total_iters=4), [0.5, 0.625, 0.75, 0.875, 1, 1]),
        (schedulers.LinearLRBuilder(start_factor=1.0, end_factor=0.0), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (schedulers.ConstantLRBuilder(factor=0.5, total_iters=3), [0.5, 0.5, 0.5, 1, 1, 1]),
        (schedulers.ReduceLROnPlateauBuilder(factor=0.5, patience=1), [1, 1, 1, 1, 0.5, 0.5]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_schedule_has_the_rates_of_its_definition(scheduler: Any, expected: list[float]) -> None:
    assert rates(scheduler, 6) == pytest.approx(expected)


@given(total=st.integers(1, 60), share=st.floats(0.02, 0.98), three=st.booleans(), warmup=st.integers(0, 3))
@settings(max_examples=100)
def test_one_cycle_is_between_zero_and_the_rate_for_every_length(
    total: int, share: float, three: bool, warmup: int
) -> None:
    share = share / 2 if three else share
    scheduler = schedulers.OneCycleLRBuilder(pct_start=share, div_factor=10, three_phase=three, warmup=warmup)

    found = rates(scheduler, total)

    assert all(0 < rate <= 1 + 1e-9 for rate in found)


def test_one_cycle_rises_to_the_rate_and_falls_far_below_its_first_value() -> None:
    found = rates(schedulers.OneCycleLRBuilder(pct_start=0.25, div_factor=10), 100)

    assert found[0] == pytest.approx(0.1)
    assert max(found) == pytest.approx(1.0, abs=0.01)
    assert found[-1] < 0.01


def test_one_cycle_whose_rise_has_no_intervals_starts_at_the_full_rate() -> None:
    assert rates(schedulers.OneCycleLRBuilder(pct_start=0.1), 9)[0] == pytest.approx(1.0)


def test_three_phases_with_too_long_a_rise_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"three_phase needs a pct_start of at most 0\.5, got 0\.6"):
        schedulers.OneCycleLRBuilder(pct_start=0.6, three_phase=True)


@pytest.mark.parametrize("builder", BASE, ids=torch_name)
@pytest.mark.parametrize("warmup", [0, 3, 5])
@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_resumed_schedule_is_bit_identical(builder: Any, warmup: int, stop: int) -> None:
    options = builder(**BASE[builder], warmup=warmup)
    first = optimizer(1.0, 0.5)
    uninterrupted = build(options, first, 12)
    for index in range(stop):
        step(uninterrupted, first, LOSSES[index])
    packed, tensors = pack({"optimizer": first.state_dict(), "scheduler": uninterrupted.state_dict()}, "update")
    state = unpack(json.loads(json.dumps(packed)), tensors)

    second = optimizer(1.0, 0.5)
    resumed = build(options, second, 12)
    second.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["scheduler"])
    second._opt_called = True  # type: ignore[attr-defined]

    for index in range(stop, 12):
        assert [group["lr"] for group in second.param_groups] == [group["lr"] for group in first.param_groups]
        step(uninterrupted, first, LOSSES[index])
        step(resumed, second, LOSSES[index])


def live(checked: RecipePlan) -> LiveStep:
    (source,) = open_sources(checked).values()
    device = torch.device("cpu")
    return LiveStep(sized(checked.steps[0], source), source, build_models(checked, device), 0, device)


@pytest.mark.parametrize("builder", [each for each in BASE if each is not schedulers.ReduceLROnPlateauBuilder])
def test_an_interval_is_a_step_of_the_optimizer_or_an_epoch(builder: Any, prove: Callable[..., RecipePlan]) -> None:
    options = {"type": torch_name(builder), **BASE[builder], "warmup": 1}
    key = "steps.vae_gan.updates.vae.scheduler="
    steps = {
        interval: live(prove(VAE_GAN, key + json.dumps({**options, "interval": interval})))
        for interval in ("batch", "epoch")
    }

    seen: dict[str, list[float]] = {}
    for interval, each in steps.items():
        update = each.updates[1]
        seen[interval] = [update.optimizer.optimizer.param_groups[0]["lr"]]
        for index, batch in zip(range(2), each.batches(0, 0), strict=False):
            each.run(batch, Position(batch=index, step_batch=index, run_batch=index))
            seen[interval].append(update.optimizer.optimizer.param_groups[0]["lr"])
        update.end_epoch({"vae_loss": 1.0}, 2)
        seen[interval].append(update.optimizer.optimizer.param_groups[0]["lr"])

    assert seen["batch"][0] != seen["batch"][1]
    assert seen["batch"][2] == seen["batch"][3]
    assert seen["epoch"][0] == seen["epoch"][1] == seen["epoch"][2] != seen["epoch"][3]
