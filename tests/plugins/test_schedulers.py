"""Schedulers: torch's own rates, every option seen in them, a warm-up before any, and the same after a save."""

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
from fluxflow_registry.state.codec import pack, unpack
from fluxflow_torch import schedulers

from ..small import VAE_GAN, sized

#: For each scheduler, options with which every other option shows in twelve intervals.
BASE: dict[Any, dict[str, Any]] = {
    schedulers.CosineAnnealingLR: {},
    schedulers.StepLR: {"step_size": 2, "gamma": 0.5},
    schedulers.ExponentialLR: {},
    schedulers.LinearLR: {},
    schedulers.ConstantLR: {},
    schedulers.OneCycleLR: {},
    schedulers.ReduceLROnPlateau: {"patience": 1},
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
#: The loss of each epoch: it falls, rests, and falls a little.
LOSSES = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.39999, 0.39998, 0.39997, 0.39996, 0.39995]
MOMENTA: dict[str, Any] = {"cycle_momentum": True, "base_momentum": 0.5, "max_momentum": 0.75}


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, momentum=0.25)


def build(options: Any, made: torch.optim.Optimizer, total: int) -> Any:
    offered = {"optimizer": made, "total": total}
    return options(**{name: offered[name] for name in inspect.signature(options).parameters})


def step(made: Any, moved: torch.optim.Optimizer, loss: float) -> None:
    moved.step()
    made.step(*([loss] if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))


def rates(
    options: Any, total: int = 12, lr: Sequence[float] = (1.0,), losses: Sequence[float] = LOSSES, key: str = "lr"
) -> list[Any]:
    """The rate at each interval; of each group, where there are several."""
    moved = optimizer(*lr)
    made = build(options, moved, total)
    found: list[Any] = []
    for index in range(total):
        now = [group[key] for group in moved.param_groups]
        found.append(now if len(now) > 1 else now[0])
        step(made, moved, losses[index % len(losses)])
    return found


@pytest.mark.parametrize("options", BASE, ids=lambda options: options.__name__)
def test_every_option_of_torchs_is_offered_or_left_out_on_purpose(options: Any) -> None:
    theirs = dict(inspect.signature(getattr(torch.optim.lr_scheduler, options.__name__)).parameters)
    ours = {field.name: field.default for field in attrs.fields(options)}

    assert set(theirs) - set(schedulers.LEFT_OUT) == set(ours) - {"interval", "warmup", "eta_min_factor", "metric"}
    changed = {
        name for name in set(theirs) & set(ours) if theirs[name].default not in (ours[name], inspect.Parameter.empty)
    }
    # The length of a schedule is the step's, only the rate moves, and a metric says itself which way it is better.
    assert changed <= {"total_iters", "cycle_momentum", "mode"}
    assert ours["interval"] == ("batch" if options is schedulers.OneCycleLR else "epoch")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (options, field.name)
        for options in BASE
        for field in attrs.fields(options)
        if field.name not in ("interval", "metric", *MOMENTA)  # those have tests of their own
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_every_option_changes_the_rates(options: Any, name: str) -> None:
    assert rates(options(**{**BASE[options], name: OTHER[name]})) != rates(options(**BASE[options]))


@pytest.mark.parametrize("name", MOMENTA)
def test_the_options_of_the_momentum_change_it_and_not_the_rates(name: str) -> None:
    default = {field.name: field.default for field in attrs.fields(schedulers.OneCycleLR)}[name]
    other = schedulers.OneCycleLR(**{**MOMENTA, name: default})

    assert rates(other, key="momentum") != rates(schedulers.OneCycleLR(**MOMENTA), key="momentum")
    assert rates(other) == rates(schedulers.OneCycleLR())
    assert rates(schedulers.OneCycleLR(), key="momentum") == [0.25] * 12


@pytest.mark.parametrize("options", BASE, ids=lambda options: options.__name__)
def test_the_schedule_is_torchs_own_after_a_rise_from_a_hundredth(options: Any) -> None:
    plain = rates(options(**BASE[options]), total=9)
    warmed = rates(options(**BASE[options], warmup=3), total=12, losses=[9.0, 9.0, 9.0, *LOSSES])

    first = plain[0] if options is not schedulers.LinearLR and options is not schedulers.ConstantLR else 1.0
    assert warmed[:3] == pytest.approx([first * (0.01 + 0.99 * n / 3) for n in range(3)])
    assert warmed[3:] == pytest.approx(plain)


@given(total=st.integers(1, 40), lr=st.floats(1e-5, 10), share=st.floats(0, 1), warmup=st.integers(0, 5))
@settings(max_examples=50)
def test_a_cosine_falls_to_its_share_at_the_steps_end(total: int, lr: float, share: float, warmup: int) -> None:
    length = max(total - warmup, 1)

    found = rates(schedulers.CosineAnnealingLR(eta_min_factor=share, warmup=warmup), total, [lr])[warmup:]

    wave = [share + (1 - share) * (1 + math.cos(math.pi * n / length)) / 2 for n in range(len(found))]
    assert found == pytest.approx([lr * part for part in wave], rel=1e-6, abs=lr * 1e-9)


@pytest.mark.parametrize("options", BASE, ids=lambda options: options.__name__)
@pytest.mark.parametrize("warmup", [0, 3])
def test_groups_of_an_optimizer_keep_their_own_rates(options: Any, warmup: int) -> None:
    scheduler = options(**BASE[options], warmup=warmup)

    both = rates(scheduler, lr=[1.0, 0.125])

    assert [first for first, _ in both] == pytest.approx(rates(scheduler))
    assert [second for _, second in both] == pytest.approx(rates(scheduler, lr=[0.125]))


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (schedulers.StepLR(step_size=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (schedulers.ExponentialLR(gamma=0.5), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (schedulers.LinearLR(start_factor=0.5, end_factor=1.0, total_iters=4), [0.5, 0.625, 0.75, 0.875, 1, 1]),
        (schedulers.LinearLR(start_factor=1.0, end_factor=0.0), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (schedulers.ConstantLR(factor=0.5, total_iters=3), [0.5, 0.5, 0.5, 1, 1, 1]),
        (schedulers.ReduceLROnPlateau(factor=0.5, patience=1), [1, 1, 1, 1, 0.5, 0.5]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_schedules_are_what_their_names_say(scheduler: Any, expected: list[float]) -> None:
    assert rates(scheduler, 6) == pytest.approx(expected)


@given(total=st.integers(1, 60), share=st.floats(0.02, 0.98), three=st.booleans(), warmup=st.integers(0, 3))
@settings(max_examples=100)
def test_one_cycle_stays_between_its_ends_whatever_its_length(
    total: int, share: float, three: bool, warmup: int
) -> None:
    share = share / 2 if three else share
    scheduler = schedulers.OneCycleLR(pct_start=share, div_factor=10, three_phase=three, warmup=warmup)

    found = rates(scheduler, total)

    assert all(0 < rate <= 1 + 1e-9 for rate in found)


def test_one_cycle_rises_to_the_rate_and_falls_far_below_its_start() -> None:
    found = rates(schedulers.OneCycleLR(pct_start=0.25, div_factor=10), 100)

    assert found[0] == pytest.approx(0.1)
    assert max(found) == pytest.approx(1.0, abs=0.01)
    assert found[-1] < 0.01


def test_one_cycle_whose_rise_has_no_length_begins_at_its_height() -> None:
    assert rates(schedulers.OneCycleLR(pct_start=0.1), 9)[0] == pytest.approx(1.0)


def test_three_phases_with_too_long_a_rise_are_refused() -> None:
    with pytest.raises(ValueError, match=r"three_phase needs a pct_start of 0\.5 at most, not 0\.6"):
        schedulers.OneCycleLR(pct_start=0.6, three_phase=True)


@pytest.mark.parametrize("options", BASE, ids=lambda options: options.__name__)
@pytest.mark.parametrize("warmup", [0, 3, 5])
@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_schedule_that_is_taken_up_again_is_the_same_bit_by_bit(options: Any, warmup: int, stop: int) -> None:
    scheduler = options(**BASE[options], warmup=warmup)
    first = optimizer(1.0, 0.5)
    made = build(scheduler, first, 12)
    for index in range(stop):
        step(made, first, LOSSES[index])
    packed, tensors = pack({"optimizer": first.state_dict(), "scheduler": made.state_dict()}, "update")
    state = unpack(json.loads(json.dumps(packed)), tensors)

    second = optimizer(1.0, 0.5)
    again = build(scheduler, second, 12)
    second.load_state_dict(state["optimizer"])
    again.load_state_dict(state["scheduler"])
    second._opt_called = True  # type: ignore[attr-defined]

    for index in range(stop, 12):
        assert [group["lr"] for group in second.param_groups] == [group["lr"] for group in first.param_groups]
        step(made, first, LOSSES[index])
        step(again, second, LOSSES[index])


def live(checked: RecipePlan) -> LiveStep:
    (source,) = open_sources(checked).values()
    device = torch.device("cpu")
    return LiveStep(sized(checked.steps[0], source), source, build_models(checked, device), 0, device)


@pytest.mark.parametrize("options", [each for each in BASE if each is not schedulers.ReduceLROnPlateau])
def test_an_interval_is_a_step_of_the_optimizer_or_an_epoch(options: Any, prove: Callable[..., RecipePlan]) -> None:
    stated = {"type": options.__name__, **BASE[options], "warmup": 1}
    place = "steps.vae_gan.updates.vae.scheduler="
    steps = {
        interval: live(prove(VAE_GAN, place + json.dumps({**stated, "interval": interval})))
        for interval in ("batch", "epoch")
    }

    seen: dict[str, list[float]] = {}
    for interval, each in steps.items():
        turn = each.updates[1]
        seen[interval] = [turn.optimizer.optimizer.param_groups[0]["lr"]]
        for index, batch in zip(range(2), each.batches(0, 0), strict=False):
            each.run(batch, Position(batch=index, step_batch=index, run_batch=index))
            seen[interval].append(turn.optimizer.optimizer.param_groups[0]["lr"])
        turn.end_epoch({"vae_loss": 1.0}, 2)
        seen[interval].append(turn.optimizer.optimizer.param_groups[0]["lr"])

    assert seen["batch"][0] != seen["batch"][1]
    assert seen["batch"][2] == seen["batch"][3]
    assert seen["epoch"][0] == seen["epoch"][1] == seen["epoch"][2] != seen["epoch"][3]
