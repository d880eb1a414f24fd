"""Before training, the rates of every scheduler are looked at over the length of its step: most mistakes do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import frozen
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.data.order import with_batches
from fluxflow_registry.engine.preflight.schedules import try_schedules
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..recipes import line_of
from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin

SCHEDULER = "steps.vae_gan.updates.vae.scheduler"
#: A step of 4 epochs of 6 batches.
EPOCHS = "steps.vae_gan.epochs=4"


@frozen
class Waving:
    """Falls and rises with a period of 4 intervals."""

    cyclic: bool = False
    interval: str = "batch"

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda n: 1.0 - 0.5 * (n % 4 > 1))


@frozen
class Momentum:
    """Changes the betas of the optimizer and leaves its rate alone."""

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        class Scheduler(LRScheduler):
            def get_lr(self) -> list[float | torch.Tensor]:
                for group in self.optimizer.param_groups:
                    group["betas"] = (0.9 - 0.01 * self.last_epoch, 0.99)
                return [group["lr"] for group in self.optimizer.param_groups]

        return Scheduler(optimizer)


@frozen
class Short:
    """Fails after two intervals, as a schedule of a fixed length does."""

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        def rate(n: int) -> float:
            return [1.0, 0.5, 0.25][n]

        return LambdaLR(optimizer, rate)


@pytest.fixture(scope="module")
def using() -> Registry:
    registry = load(PLUGINS)
    schedulers = {"waving": Waving, "momentum": Momentum, "short": Short}
    add_plugin(registry, Plugin("waves", "test", "1", "here"), plugin(schedulers=schedulers))
    return registry


@pytest.fixture
def problems(checked: Callable[..., RecipePlan], using: Registry) -> Callable[..., list[Problem]]:
    """What is wrong with the schedules of a recipe."""

    def report(scheduler: str, *settings: str) -> list[Problem]:
        plan = checked(VAE_GAN, f"{SCHEDULER}={scheduler}", EPOCHS, *settings, using=using)
        return try_schedules(with_batches(plan, open_sources(plan)))

    return report


#: Schedules without an effect; what the message says of the rate, and the hint.
CONSTANT = {
    "a cosine in one epoch": ("CosineAnnealingLR", ["steps.vae_gan.epochs=1"], "0.001 throughout its 1 epoch"),
    "an exponential in one epoch": ("ExponentialLR", ["steps.vae_gan.epochs=1"], "0.001 throughout its 1 epoch"),
    "a step beyond the end": ("{type: StepLR, step_size: 4}", [], "0.001 throughout its 4 epochs"),
    "a step beyond the end, in batches": (
        "{type: StepLR, step_size: 24, interval: batch}",
        [],
        "0.001 throughout its 24 batches",
    ),
    "a factor of one": ("{type: ExponentialLR, gamma: 1.0}", [], "0.001 throughout its 4 epochs"),
    "a reduced rate that never ends": (
        "{type: ConstantLR, factor: 0.5, total_iters: 4}",
        [],
        "0.0005 throughout its 4 epochs",
    ),
    "a cosine without a descent": ("{type: CosineAnnealingLR, eta_min_factor: 1.0}", [], "0.001 throughout its 4"),
    "more patience than epochs": ("{type: ReduceLROnPlateau, patience: 10}", [], "0.001 throughout its 4 epochs"),
    "more patience than evaluations": (
        "{type: ReduceLROnPlateau, metric: seen/psnr, patience: 1}",
        ["steps.vae_gan.evaluate={seen: {dataset: shapes, every: 2, metrics: {psnr: {}}}}"],
        "0.001 throughout its 4 epochs",
    ),
    "one window in a step": (
        "{type: StepLR, step_size: 12, interval: batch}",
        ["steps.vae_gan.accumulate=2"],
        "0.001 throughout its 12 optimizer steps",
    ),
}


@pytest.mark.parametrize("case", CONSTANT)
def test_a_schedule_that_changes_nothing_is_reported(problems: Callable[..., list[Problem]], case: str) -> None:
    scheduler, settings, words = CONSTANT[case]

    (problem,) = problems(scheduler, *settings)

    assert "of update `vae` in step `vae_gan` has no effect: the learning rate is " + words in problem.message
    assert problem.code == "unused"
    assert ("set `interval: batch`" in str(problem)) == ("1 epoch" in words)


#: Schedules that rise again after they fell, the lowest rate and the highest after it.
RISING = {
    "a cosine in half of the step": ("{type: CosineAnnealingLR, T_max: 2}", "is 0, and 0.0005 after 3 epochs"),
    "a cosine in half of the step, in batches": (
        "{type: CosineAnnealingLR, T_max: 12, interval: batch}",
        "is 0, and 0.000982963 after 23 batches",
    ),
    "a cosine behind a warm-up": (
        "{type: CosineAnnealingLR, T_max: 8, warmup: 4, interval: batch}",
        "is 0, and 0.001 after 20 batches",
    ),
    "a warm-up before another one": (
        "{type: LinearLR, start_factor: 0.1, warmup: 4, interval: batch}",
        "is 0.0001, and 0.000955 after 23 batches",
    ),
    "a plugin's own": ("waving", "is 0.0005, and 0.001 after 4 batches"),
}


@pytest.mark.parametrize("case", RISING)
def test_a_schedule_that_rises_again_is_reported(problems: Callable[..., list[Problem]], case: str) -> None:
    scheduler, words = RISING[case]

    (problem,) = problems(scheduler)

    assert "rises again after it fell: its learning rate " + words in problem.message
    assert problem.code == "rising-again"
    assert "make the schedule as long as the step" in str(problem)


@pytest.mark.parametrize(
    "scheduler",
    [
        "{type: CosineAnnealingLR, warmup: 40, interval: batch}",
        "{type: CosineAnnealingLR, warmup: 24, interval: batch}",
        "{type: StepLR, step_size: 2, warmup: 5}",
        "{type: ExponentialLR, warmup: 4}",
        "{type: OneCycleLR, warmup: 30}",
        "{type: ReduceLROnPlateau, warmup: 6}",
    ],
)
def test_a_warm_up_that_the_step_does_not_finish_is_reported(
    problems: Callable[..., list[Problem]], scheduler: str
) -> None:
    (problem,) = problems(scheduler)

    assert "is still rising when the step ends" in problem.message
    assert problem.code == "not-reached"
    assert "shorten the warm-up, or train longer" in str(problem)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (["{loss}.warmup=25"], 24),
        (["{loss}.warmup=12", "{loss}.start=13"], 11),
        (["{loss}.warmup=12", "steps.vae_gan.updates.vae.start=14"], 10),
        (["{loss}.warmup=24"], None),
        (["{loss}.warmup=11", "{loss}.start=13"], None),
        (["{loss}.warmup=11", "{loss}.start=40"], None),  # it never starts, which is reported as such
    ],
)
def test_a_loss_whose_weight_still_rises_when_the_step_ends_is_reported(
    problems: Callable[..., list[Problem]], settings: list[str], left: int | None
) -> None:
    loss = "steps.vae_gan.updates.vae.losses.kl"

    found = problems("CosineAnnealingLR", *(setting.format(loss=loss) for setting in settings))

    words = "loss `kl` of update `vae` in step `vae_gan` never reaches its full weight: its `warmup` takes "
    assert [each.message.startswith(words) for each in found] == [True] * (left is not None)
    assert all(each.message.endswith(f"but only {left} follow its start") for each in found)


@pytest.mark.parametrize(
    "scheduler",
    [
        "CosineAnnealingLR",
        "{type: CosineAnnealingLR, warmup: 2}",
        "{type: CosineAnnealingLR, T_max: 23, interval: batch}",
        "{type: CosineAnnealingLR, interval: batch, warmup: 10}",
        "{type: StepLR, step_size: 3}",
        "ExponentialLR",
        "LinearLR",
        "{type: LinearLR, interval: batch}",
        "{type: LinearLR, start_factor: 1.0, end_factor: 0.0, warmup: 1}",
        "{type: ConstantLR, total_iters: 2}",
        "OneCycleLR",
        "{type: OneCycleLR, three_phase: true, warmup: 5}",
        "{type: ReduceLROnPlateau, patience: 1}",
        "{type: waving, cyclic: true}",
        "momentum",
    ],
)
def test_a_schedule_that_does_something_is_not_reported(problems: Callable[..., list[Problem]], scheduler: str) -> None:
    assert problems(scheduler) == []


def test_one_step_of_the_optimizer_leaves_no_choice_of_a_schedule(problems: Callable[..., list[Problem]]) -> None:
    short = ("steps.vae_gan.epochs=1", "steps.vae_gan.max_steps=1", "steps.vae_gan.updates.vae.losses.kl.warmup=0")

    assert problems("OneCycleLR", *short) == []


def test_a_schedule_that_fails_before_the_step_ends_is_rejected(problems: Callable[..., list[Problem]]) -> None:
    with pytest.raises(RecipeError) as caught:
        problems("short")

    (problem,) = caught.value.problems
    assert (
        "scheduler `short` of update `vae` in step `vae_gan` fails after 3 epochs of 4: IndexError" in problem.message
    )
    assert problem.code == "component-failed"


def test_the_length_of_a_late_update_is_what_its_schedule_is_compared_with(
    problems: Callable[..., list[Problem]],
) -> None:
    late = "steps.vae_gan.updates.vae.start=18"  # the last epoch

    assert [each.code for each in problems("CosineAnnealingLR", late)] == ["unused"]
    assert problems("{type: CosineAnnealingLR, T_max: 6, interval: batch}", late) == []


def test_the_problem_stands_at_the_scheduler(checked: Callable[..., RecipePlan], using: Registry) -> None:
    text = VAE_GAN.replace(
        "scheduler: {type: CosineAnnealingLR, interval: batch}", "scheduler: {type: StepLR, step_size: 9}"
    )
    plan = checked(text, using=using)

    (problem,) = try_schedules(with_batches(plan, open_sources(plan)))

    assert f":{line_of(text, 'scheduler:')}:" in str(problem.where)


def test_a_schedule_whose_beginning_depends_on_a_condition_is_not_judged(
    problems: Callable[..., list[Problem]],
) -> None:
    waits = "steps.vae_gan.updates.vae.start={type: loss_threshold, metric: discriminator_loss, threshold: 0.1}"

    assert problems("{type: StepLR, step_size: 100}", waits) == []


def test_of_a_curve_without_end_only_the_beginning_is_judged(
    problems: Callable[..., list[Problem]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxflow_registry.engine.preflight.schedules.LONGEST", 10)

    assert problems("{type: StepLR, step_size: 20, interval: batch}") == []
    assert problems("{type: CosineAnnealingLR, warmup: 12, interval: batch}") == []
    assert [each.code for each in problems("waving")] == ["rising-again"]


def test_the_schedules_of_all_steps_are_reported_at_once(checked: Callable[..., RecipePlan], using: Registry) -> None:
    wrong = "steps.flow.updates.flow.scheduler={type: StepLR, step_size: 7}"
    plan = checked(VAE_GAN + FLOW, f"{SCHEDULER}={{type: StepLR, step_size: 9}}", wrong, using=using)

    found: Any = try_schedules(with_batches(plan, open_sources(plan)))

    assert [each.message.split("`")[5] for each in found] == ["vae_gan", "flow"]
