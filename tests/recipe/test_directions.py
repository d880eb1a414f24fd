"""Which way a metric is better: what watches it follows the metric, unless the recipe says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import frozen
from torch import Tensor

from fluxflow_registry import higher_is_better
from fluxflow_registry.check.checker import check
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.errors import PluginError, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.plan.updates import WhenMet
from fluxflow_registry.recipe import writer as resolved
from fluxflow_registry.registry.discovery import add_plugin, from_modules, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin

Checker = Callable[..., RecipePlan]
METRICS = "psnr: {}, ssim: {}, sharp: {type: sharpness}, elbo: {}, own: {}, several: {}, rates: {}, optional: {}"


def own(reconstruction: Tensor) -> Tensor:
    """A metric that says nothing: less is better."""
    return reconstruction.mean()


@higher_is_better
def rates(reconstruction: Tensor) -> dict[str, Tensor]:
    return {"right": reconstruction.mean()}


def silent(reconstruction: Tensor) -> dict[str, Tensor]:
    return {"wrong": reconstruction.mean()}


@frozen
class Several:
    better: ClassVar[Mapping[str, str]] = {"score": "higher", "distance": "lower"}

    def __call__(self, reconstruction: Tensor) -> dict[str, Tensor]:
        return {"score": reconstruction.mean(), "distance": reconstruction.mean()}


@frozen
class Optional:
    """A metric with an option of that name."""

    better: str = "so"

    def __call__(self, reconstruction: Tensor) -> Tensor:
        return reconstruction.mean()


@pytest.fixture(scope="module")
def registry() -> Registry:
    made = load(PLUGINS)
    metrics = {"own": own, "several": Several, "rates": rates, "silent": silent, "optional": Optional}
    add_plugin(made, Plugin("own", "test", "1", "here"), plugin(metrics=metrics))
    return made


@pytest.fixture
def checked(registry: Registry, tmp_path: Path) -> Checker:
    def make(*settings: str, metrics: str = METRICS) -> RecipePlan:
        path = tmp_path / "recipe.yaml"
        path.write_text(VAE_GAN + FLOW)
        evaluate = f"steps.vae_gan.evaluate={{seen: {{dataset: shapes, every: 1, metrics: {{{metrics}}}}}}}"
        return check(path, registry, [evaluate, *settings])

    return make


WAYS = [
    *(("vae_loss", "lower"), ("vae/l1", "lower"), ("seen/own", "lower"), ("seen/elbo", "lower")),
    *(("seen/psnr", "higher"), ("seen/ssim", "higher"), ("seen/sharp", "higher"), ("seen/optional", "lower")),
    *(("seen/score", "higher"), ("seen/distance", "lower"), ("seen/several/score", "higher"), ("seen/right", "higher")),
]


@pytest.mark.parametrize(("metric", "way"), WAYS)
def test_the_best_checkpoint_and_what_ends_a_step_follow_the_direction_of_the_metric(
    checked: Checker, metric: str, way: str
) -> None:
    until = f"{{type: loss_threshold, metric: {metric}, threshold: 1}}"
    plateau = f"{{type: any, conditions: [{{metric: {metric}, plateau: 2}}, {{epochs: 3}}]}}"
    scheduler = f"{{type: ReduceLROnPlateau, metric: {metric}}}"
    start = f"{{type: plateau, metric: {metric if metric.startswith('seen') else 'discriminator_loss'}}}"

    step = checked(f"steps.vae_gan.best={{metric: {metric}}}", f"steps.vae_gan.until={until}").steps[0]
    other = checked(
        f"steps.vae_gan.until={plateau}",
        f"steps.vae_gan.updates.vae.scheduler={scheduler}",
        f"steps.vae_gan.updates.vae.losses.hinge_generator.start={start}",
    ).steps[0]

    mode = "min" if way == "lower" else "max"
    assert step.settings.best is not None
    assert step.settings.best.mode == mode
    assert _instance(step.until).mode == ("below" if way == "lower" else "above")
    assert [each.mode for each in _instance(other.until).conditions] == [mode, None]
    assert _instance(other.updates["vae"].scheduler).mode == mode
    late = other.updates["vae"].losses["hinge_generator"].start
    assert isinstance(late, WhenMet)
    assert _instance(late.condition).mode == mode


def _instance(configured: Any) -> Any:
    return configured.instance


def test_the_judge_declares_the_direction_of_each_of_its_results(checked: Checker) -> None:
    step = checked("steps.flow.best={metric: seen/everything}").step("flow")

    assert step.settings.best is not None
    assert step.settings.best.mode == "max"


def test_the_recipe_overrides_the_direction_and_the_effective_recipe_shows_it(checked: Checker) -> None:
    stated = checked(
        "steps.vae_gan.best={metric: seen/psnr, mode: min}",
        "steps.vae_gan.until={type: loss_threshold, metric: seen/psnr, threshold: 9, mode: below}",
    )
    left = checked(
        "steps.vae_gan.best={metric: seen/psnr}",
        "steps.vae_gan.until={type: loss_threshold, metric: seen/psnr, threshold: 9}",
    )

    expected = [resolved.plain(effective_recipe(each))["steps"]["vae_gan"] for each in (stated, left)]

    assert [each["best"]["mode"] for each in expected] == ["min", "max"]
    assert [each["until"]["mode"] for each in expected] == ["below", "above"]


def test_a_result_that_two_metrics_of_different_direction_may_return_needs_a_mode(checked: Checker) -> None:
    metrics = "rates: {}, silent: {}"

    with pytest.raises(RecipeError, match="it is unknown whether a lower or a higher `seen/other` is better") as caught:
        checked("steps.vae_gan.best={metric: seen/other}", metrics=metrics)

    (problem,) = caught.value.problems
    assert str(problem.where).startswith("--set steps.vae_gan.best")
    assert "mode" in dict(problem.notes)["hint"]
    checked("steps.vae_gan.best={metric: seen/other, mode: max}", metrics=metrics)


@pytest.mark.parametrize("better", ["max", {"score": "max"}, None])
def test_a_metric_with_an_invalid_direction_is_rejected_with_its_file(better: Any) -> None:
    def wrong(reconstruction: Tensor) -> Tensor:
        return reconstruction.mean()

    wrong.better = better  # type: ignore[attr-defined]

    with pytest.raises(PluginError, match="`better` of metric `wrong` must be one of lower, higher or a map") as caught:
        from_modules({"own": plugin(metrics={"wrong": wrong})})

    (problem,) = caught.value.problems
    assert (problem.code, problem.subject) == ("wrong-type", "better")
    assert problem.choices is not None
    assert problem.choices.available == ("higher", "lower")
    assert "test_directions.py" in str(problem.where)
