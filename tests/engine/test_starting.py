"""What starts late: nothing of it is computed before, nothing of it moves, and a resumed run does the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_registry import Ending, hookimpl
from fluxflow_registry.cli.check import check_run
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.diagnosis.proof import shortened
from fluxflow_registry.engine.run import rollback as recovery
from fluxflow_registry.engine.training.late_start import Extent, Starts, intervals
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.plan.updates import AtBatch, WhenMet
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin

from ..small import PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import StopAfter, changed, start, weights
from .poison import POISONED, Poison, poisoned
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]
STEP = "steps.vae_gan"
GENERATOR = f"{STEP}.updates.vae.losses.hinge_generator"
DISCRIMINATOR = f"{STEP}.updates.discriminator"
ALWAYS = "{type: loss_threshold, metric: vae/l1, threshold: 100.0}"
NEVER = "{type: loss_threshold, metric: vae/l1, threshold: -100.0, max_epochs: 99}"


def take(step: LiveStep, count: int, first: int = 0) -> list[dict[str, float]]:
    """The figures of each of so many batches."""
    found = []
    for index, batch in zip(range(first, first + count), step.batches(0, first), strict=False):
        step.run(batch, Position(batch=index, step_batch=index, run_batch=index))
        found.append(dict(step.metrics.logged()))
    return found


def test_a_loss_starts_at_its_batch_and_nothing_of_it_is_computed_before(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN, f"{GENERATOR}.start=2"))
    reported: list[list[str]] = []

    for index, batch in zip(range(4), step.batches(0, 0), strict=False):
        reported.append([])
        step.values.watch = lambda kind, name, _: reported[-1].append(name)
        step.run(batch, Position(batch=index, step_batch=index))

    assert [reported[index].count("fake_logits") for index in range(4)] == [1, 1, 2, 2]
    assert [reported[index].count("vae/hinge_generator") for index in range(4)] == [0, 0, 1, 1]


def test_the_warm_up_of_a_weight_counts_from_the_start(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN, f"{STEP}.updates.vae.losses.kl={{weight: 1.0, warmup: 2, start: 2}}"))

    reported = take(step, 5)

    assert [figures.get("vae/kl/weight") for figures in reported] == [None, None, 0.0, pytest.approx(0.5), 1.0]


def test_an_update_that_has_not_started_leaves_models_optimizer_and_scheduler_alone(
    checked: Checker, live: Maker
) -> None:
    scheduler = f"{DISCRIMINATOR}.scheduler={{type: StepLR, step_size: 1, gamma: 0.5, interval: batch}}"
    step = live(checked(VAE_GAN, f"{DISCRIMINATOR}.start=3", f"{GENERATOR}.start=3", scheduler))
    before = weights(step.models)
    turn = step.updates[0]

    reported = take(step, 3)
    still = (
        changed(before, step.models),
        dict(turn.optimizer.optimizer.state),
        turn.optimizer.optimizer.param_groups[0]["lr"],
    )
    after = take(step, 2, first=3)

    assert still == ({"compressor", "expander"}, {}, 1e-3)
    assert not [name for figures in reported for name in figures if name.startswith("discriminator")]
    assert [figures["discriminator/lr"] for figures in after] == [1e-3, 5e-4]
    assert "discriminator" in changed(before, step.models)


def test_no_graph_is_kept_for_an_update_that_has_not_started(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN, f"{STEP}.updates.vae.start=1"))
    carried = []
    step.values.watch = lambda kind, name, value: (
        carried.append(value.requires_grad) if name == "reconstruction" else None
    )

    take(step, 2)

    assert carried == [False, True]


@pytest.mark.parametrize("where", ["loss", "update"])
def test_a_condition_is_checked_after_an_epoch_and_starts_the_next(checked: Checker, tmp_path: Any, where: str) -> None:
    place = GENERATOR if where == "loss" else DISCRIMINATOR
    name = "vae/hinge_generator" if where == "loss" else "discriminator_loss"
    recipe = checked(VAE_GAN, f"{place}.start={ALWAYS}", f"{STEP}.epochs=3")

    history = start(recipe, tmp_path).run.live.metrics.history

    assert len(history["vae/l1"]) == 3
    assert len(history[name]) == 2


def test_a_start_by_the_limit_of_its_condition_is_worth_a_warning(checked: Checker, tmp_path: Any) -> None:
    listener = Listener([])
    condition = "{type: loss_threshold, metric: vae/l1, threshold: 0.0, max_epochs: 1}"

    ended = start(checked(VAE_GAN, f"{GENERATOR}.start={condition}"), tmp_path, [listener]).run

    assert len(ended.live.metrics.history["vae/hinge_generator"]) == 1
    (reported,) = listener.messages
    assert reported.startswith(
        "loss `hinge_generator` of update `vae` starts because it reached its limit: 1 epoch with vae/l1 "
    )


def test_what_never_starts_is_a_warning_and_no_error(checked: Checker, tmp_path: Any) -> None:
    listener = Listener([])
    settings = [f"{DISCRIMINATOR}.start=500", f"{GENERATOR}.start={NEVER}"]

    ended = start(checked(VAE_GAN, *settings), tmp_path, [listener]).run

    assert ended.live.updates[0].steps == 0
    assert listener.messages == [
        "update `discriminator` has not started: it starts at batch 500, but step `vae_gan` ended after 12 batches",
        "loss `hinge_generator` of update `vae` has not started: it starts once loss_threshold of vae/l1 is met, "
        "but step `vae_gan` ended after 12 batches",
    ]


@pytest.mark.parametrize(("r1", "also"), [("false", ""), ("{start: 500}", " or starts at batch 500")])
def test_an_update_none_of_whose_losses_has_started_is_reported_with_what_each_waits_for(
    checked: Checker, tmp_path: Any, r1: str, also: str
) -> None:
    listener = Listener([])
    never = "{type: loss_threshold, metric: vae/floor, threshold: -100.0, max_epochs: 99}"
    losses = f"{DISCRIMINATOR}.losses={{hinge_discriminator: {{start: {never}}}, r1: {r1}}}"

    start(checked(VAE_GAN, f"{STEP}.updates.vae.losses.floor={{type: l1}}", losses), tmp_path, [listener])

    assert listener.messages == [
        f"update `discriminator` has not started: it starts once loss_threshold of vae/floor is met{also}, "
        "but step `vae_gan` ended after 12 batches"
    ]


LATE = {
    "by number": [f"{GENERATOR}.start=7", f"{DISCRIMINATOR}.start=5"],
    "by condition": [f"{GENERATOR}.start={ALWAYS}", f"{DISCRIMINATOR}.start={ALWAYS}"],
    "accumulated": [f"{GENERATOR}.start=7", f"{DISCRIMINATOR}.start={ALWAYS}", f"{STEP}.accumulate=2"],
}
SCHEDULED = [
    f"{DISCRIMINATOR}.scheduler={{type: OneCycleLR, warmup: 1}}",
    f"{STEP}.ema={{models: [discriminator, expander], decay: 0.9}}",
]


@pytest.mark.parametrize("late", LATE)
def test_stopping_again_and_again_ends_with_the_same_weights(checked: Checker, tmp_path: Any, late: str) -> None:
    recipe = checked(VAE_GAN, *LATE[late], *SCHEDULED)
    whole = start(recipe, tmp_path / "whole").run

    while (again := start(recipe, tmp_path / "often", [StopAfter("batch_ended", 2)])).stopped is not None:
        pass

    assert 0 < whole.live.updates[0].steps < 12
    assert finals(again.run) == finals(whole)
    assert again.run.live.metrics.history == whole.live.metrics.history


@define
class Patient:
    """A condition that counts how often it was asked, and holds the second time."""

    asked: int = field(init=False, default=0)

    def __call__(self, epoch: int) -> Ending | None:
        self.asked += 1
        return Ending(f"asked {self.asked} times by epoch {epoch}") if self.asked >= 2 else None

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


def test_a_stateful_condition_is_checked_once_an_epoch_stopped_or_not(checked: Checker, tmp_path: Any) -> None:
    patient = load(PLUGINS)
    add_plugin(patient, Plugin("patient", "test", "1", "here"), plugin(transitions={"patient": Patient}))
    settings = [f"{GENERATOR}.start=patient", f"{STEP}.epochs=3"]
    whole = start(checked(VAE_GAN, *settings, using=patient), tmp_path / "whole").run

    stops = 0
    while (
        again := start(checked(VAE_GAN, *settings, using=patient), tmp_path / "often", [StopAfter("batch_ended", 5)])
    ).stopped is not None:
        stops += 1

    assert stops >= 3
    assert whole.live.updates[1].starts.met == {"hinge_generator": 12}
    assert finals(again.run) == finals(whole)


def test_going_back_to_before_the_start_takes_the_start_back(
    checked: Checker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The condition holds after batch 6; batches 7 to 10 are not finite, and the last good state is that after 4."""
    monkeypatch.setattr(recovery, "PATIENCE", 4)
    monkeypatch.setattr(Poison, "bad", lambda batch: batch in range(7, 11))
    settings = [f"{GENERATOR}.start={ALWAYS}", f"{STEP}.epochs=4", f"{STEP}.checkpoint_every=4"]
    recipe = checked(POISONED, *settings, using=poisoned())
    seen = Started()

    ended = start(recipe, tmp_path / "whole", [seen]).run
    while (again := start(recipe, tmp_path / "often", [StopAfter("batch_ended", 1)])).stopped is not None:
        pass

    assert ended.live.rollbacks == 1
    assert seen.reported == [*[{}] * 6, *[{"hinge_generator": 6}] * 5, {}, *[{"hinge_generator": 12}] * 12]
    assert finals(again.run) == finals(ended)


class Started:
    """Remembers after each batch what has started by its condition."""

    def __init__(self) -> None:
        self.reported: list[dict[str, int]] = []

    @hookimpl
    def batch_ended(self, run: Any) -> None:
        self.reported.append(run.engine.live.updates[1].starts.met.copy())


def test_averages_of_a_model_warm_up_from_its_own_start(checked: Checker, live: Maker) -> None:
    """At n = 0 of the warm-up d = 1/10: nine tenths of the first step are in the average at once."""
    ema = f"{STEP}.ema={{models: [discriminator], decay: 0.9999}}"
    step = live(checked(VAE_GAN, f"{DISCRIMINATOR}.start=3", f"{GENERATOR}.start=3", ema))
    first = next(step.models["discriminator"].parameters()).clone()

    take(step, 3)
    waiting = next(step.averages["discriminator"].module.parameters()).clone()
    take(step, 1, first=3)

    moved = next(step.models["discriminator"].parameters())
    assert torch.equal(waiting, first)
    torch.testing.assert_close(
        next(step.averages["discriminator"].module.parameters()), 0.1 * first + 0.9 * moved, rtol=1e-4, atol=1e-7
    )


def test_a_proof_of_resumption_covers_what_starts_late(checked: Checker, tmp_path: Any) -> None:
    lazy = f"{DISCRIMINATOR}.losses.r1={{every: 16, start: 100}}"
    recipe = shortened(checked(VAE_GAN, f"{DISCRIMINATOR}.start=500", f"{GENERATOR}.start={NEVER}", lazy))

    history = start(recipe, tmp_path).run.live.metrics.history

    assert {name: len(history[name]) for name in ("discriminator/r1", "discriminator_loss", "vae/hinge_generator")} == {
        "discriminator/r1": 2,
        "discriminator_loss": 2,
        "vae/hinge_generator": 1,
    }


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_scheduler_is_as_long_as_its_optimizer_steps(data: Any) -> None:
    extent = Extent(*(data.draw(st.integers(1, 6)) for _ in range(3)))
    starts = made_up({label: data.draw(st.integers(0, 40)) for label in ("", "a", "b")})
    starts.every = {"a": data.draw(st.integers(1, 9)), "b": data.draw(st.integers(1, 9))}

    steps = epochs = 0
    for epoch in range(extent.epochs):
        taken = [
            any(starts.counts(label, epoch * extent.batches + batch) for label in ("a", "b"))
            for batch in range(extent.batches)
        ]
        steps += sum(any(taken[n : n + extent.accumulate]) for n in range(0, extent.batches, extent.accumulate))
        epochs += any(taken) or epochs > 0

    assert intervals(extent, starts, "batch") == max(steps, 1)
    assert intervals(extent, starts, "epoch") == max(epochs, 1)


def made_up(stated: dict[str, int], *waiting: str) -> Starts:
    """The starts of an update with losses `a` and `b`; what is `waiting` has a condition."""
    losses = {label: SimpleNamespace(every=1) for label in ("a", "b")}
    condition: Any = None
    each = {
        label: WhenMet(condition) if label in waiting else AtBatch(stated.get(label, 0)) for label in ("", "a", "b")
    }
    return Starts(SimpleNamespace(losses=losses, starts=each))  # type: ignore[arg-type]


def test_a_scheduler_waits_until_its_length_is_known_and_keeps_it() -> None:
    extent = Extent(epochs=4, batches=10)
    alone, beside, both = made_up({}, ""), made_up({"a": 5}, "b"), made_up({}, "a", "b")
    unknown = [intervals(extent, alone, "batch"), intervals(extent, both, "batch")]

    alone.meet("", 20)
    both.meet("b", 10)
    found = [intervals(extent, starts, "batch") for starts in (alone, beside, both)]
    both.meet("a", 30)
    beside.meet("b", 30)

    assert unknown == [None, None]
    assert found == [20, 40, 30]  # beside `a`, which starts for certain, `b` might start at once
    assert [intervals(extent, starts, "batch") for starts in (alone, beside, both)] == found
    assert intervals(extent, alone, "epoch") == 2


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_length_of_a_schedule_of_huge_epochs_is_known_at_once(data: Any) -> None:
    """A million million more repetitions of the pattern add that many times the steps of one repetition."""
    accumulate, many = data.draw(st.integers(1, 6)), 10**12
    starts = made_up({label: data.draw(st.integers(0, 40)) for label in ("", "a", "b")})
    starts.every = {"a": data.draw(st.integers(1, 16)), "b": data.draw(st.integers(1, 16))}
    starts._derive()
    period = math.lcm(accumulate, *starts.every.values())
    batches, epochs = data.draw(st.integers(60, 90)), data.draw(st.integers(1, 3))

    def length(repetitions: int) -> int:
        found = intervals(Extent(epochs, batches + repetitions * period, accumulate), starts, "batch")
        assert found is not None
        return found

    assert length(many) == length(1) + (many - 1) * (length(2) - length(1))
    once = intervals(Extent(many, batches * period, accumulate), starts, "batch")
    twice = [intervals(Extent(few, batches * period, accumulate), starts, "batch") or 0 for few in (1, 2)]
    assert once == twice[0] + (many - 1) * (twice[1] - twice[0])


def test_lazy_losses_that_seldom_meet_do_not_make_the_length_of_a_schedule_hard_to_compute() -> None:
    starts = made_up({})
    starts.every = {"a": 997, "b": 1009, "c": 1013}
    starts.planned |= {"c": 0}
    starts._derive()
    period, idle = 997 * 1009 * 1013, 996 * 1008 * 1012

    found = intervals(Extent(1000, 1000 * period), starts, "batch")

    assert found == 1000 * 1000 * (period - idle)


def test_the_rate_of_a_lazy_update_comes_to_its_end_with_the_step(checked: Checker, live: Maker) -> None:
    scheduler = f"{DISCRIMINATOR}.scheduler={{type: LinearLR, start_factor: 1.0, end_factor: 0.0, interval: batch}}"
    step = live(checked(VAE_GAN, f"{DISCRIMINATOR}.losses={{r1: {{every: 4}}}}", scheduler, f"{STEP}.epochs=1"))

    reported = take(step, 6)

    rates = [figures["discriminator/lr"] for figures in reported if "discriminator/lr" in figures]
    assert rates == pytest.approx([1e-3, 5e-4])
    assert step.updates[0].optimizer.lr == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        (
            [f"{GENERATOR}.start={{type: loss_threshold, metric: vae/ll1, threshold: 1.0}}"],
            r"(?s)`start` of loss `hinge_generator` of update `vae` watches `vae/ll1`, but step `vae_gan` logs no such "
            r"metric"
            r".*nearest +vae/l1",
        ),
        (
            [f"{GENERATOR}.start={{type: loss_threshold, metric: vae/hinge_generator, threshold: 1.0}}"],
            r"would never be reached: it watches `vae/hinge_generator`, which is logged only after that start",
        ),
        (
            [f"{DISCRIMINATOR}.start={{type: plateau, metric: discriminator_loss}}"],
            r"`start` of update `discriminator` would never be reached: "
            r"it watches `discriminator_loss`, which is logged only after that start",
        ),
        (
            [
                f"{DISCRIMINATOR}.start={{type: plateau, metric: vae/hinge_generator}}",
                f"{GENERATOR}.start={{type: plateau, metric: discriminator/lr}}",
            ],
            r"(?s)^(?=.*watches `discriminator/lr`, which is l)(?=.*watches `vae/hinge_generator`, which is l)",
        ),
        (
            [
                f"{STEP}.evaluate={{seen: {{dataset: shapes, metrics: {{psnr: {{}}}}}}}}",
                f"{GENERATOR}.start={{type: plateau, metric: seen/psnr}}",
            ],
            r"watches `seen/psnr`, but evaluation `seen` runs only at the end of the step",
        ),
        ([f"{GENERATOR}.start=-1"], r"`start` of loss `hinge_generator` must be >= 0, got -1"),
        ([f"{GENERATOR}.start=1.5"], r"`start` of loss `hinge_generator` must be an integer"),
        ([f"{GENERATOR}.start={{metric: vae/l1}}"], r"`start` needs `type`: the name of a transition"),
        ([f"{DISCRIMINATOR}.start=epok"], r"(?s)unknown transition `epok`.*nearest +epoch"),
        (
            [f"{GENERATOR}.start={{type: loss_threshold, metric: vae/l1, treshold: 1.0}}"],
            r"unknown key `treshold` in transition `loss_threshold`",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_start_that_cannot_be_is_refused(checked: Checker, settings: list[str], reported: str) -> None:
    with pytest.raises(RecipeError, match=reported):
        checked(VAE_GAN, *settings)


def test_a_chain_of_starts_of_which_each_logs_what_the_next_watches_is_accepted(checked: Checker) -> None:
    chain = [
        f"{DISCRIMINATOR}.start={ALWAYS}",
        f"{GENERATOR}.start={{type: plateau, metric: discriminator_loss}}",
        f"{STEP}.updates.vae.losses.kl={{start: {{type: plateau, metric: vae/hinge_generator}}}}",
    ]

    assert checked(VAE_GAN, *chain).steps


LATE_BY = "would never take effect: it starts at batch 12"


@pytest.mark.parametrize(
    ("setting", "reported"),
    [
        (f"{GENERATOR}.start=11", None),
        (f"{GENERATOR}.start=12", f"loss `hinge_generator` of update `vae` {LATE_BY}"),
        (f"{DISCRIMINATOR}.start=12", f"update `discriminator` {LATE_BY}"),
        (f"{DISCRIMINATOR}.start=11", f"loss `r1` of update `discriminator` {LATE_BY}"),
        (f"{GENERATOR}.start={NEVER}", None),
    ],
)
def test_a_start_after_the_last_batch_is_reported_before_training(
    setting: str, reported: str | None, checked: Checker, capsys: pytest.CaptureFixture[str]
) -> None:
    check_run(checked(VAE_GAN, setting))

    warning = f"warning: --set {setting}  {reported}, but step `vae_gan` ends at batch 12 at the latest\n"
    assert capsys.readouterr().err == (warning if reported else "")
