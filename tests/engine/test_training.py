"""What a step does with its settings: accumulation, averages, warm-up, clipping, precision, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from fluxflow_registry.contracts import Position, Summary
from fluxflow_registry.engine.models.build import Average
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.metrics import StepMetrics
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import changed, start, weights

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]
VAE = "steps.vae_gan.updates.vae"


def take(step: LiveStep, count: int) -> None:
    for index, batch in zip(range(count), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=index, step_batch=index, run_batch=index))


def test_the_weight_of_a_loss_rises_as_a_cosine_over_the_steps_own_batches(checked: Checker, live: Maker) -> None:
    kl = next(loss for loss in live(checked(VAE_GAN)).updates[1].losses.all if loss.label == "kl")

    rising = [kl.plan.weight_at(s) for s in range(7)]

    assert rising == pytest.approx([1e-3 * (1 - math.cos(math.pi * s / 5)) / 2 for s in range(5)] + [1e-3, 1e-3])


def test_a_loss_without_a_weight_has_its_own_default(checked: Checker) -> None:
    update = checked(VAE_GAN.replace("l1: {}", "l1: {}\n          mse: {}")).steps[0].updates["vae"]

    assert (update.losses["mse"].weight, update.losses["l1"].weight, update.losses["kl"].weight) == (0.1, 1.0, 1e-3)


def test_accumulating_two_batches_moves_weights_as_one_of_twice_the_size(checked: Checker, live: Maker) -> None:
    plain = VAE_GAN.replace("kl: {weight: 1.0e-3, warmup: 5}", "kl: {weight: 0.0}")
    plain = plain.replace("          hinge_generator: {weight: 0.1, detach: [latent]}\n", "")
    quiet = "values={latent: {sample: false}}"
    sgd = f"{VAE}.optimizer={{type: SGD, lr: 0.1}}"
    common = [quiet, sgd, f"{VAE}.scheduler=null", f"{VAE}.clip_grad_norm=null"]
    twice = live(checked(plain, *common, "defaults.batch_size=4", "steps.vae_gan.accumulate=2"))
    once = live(checked(plain, *common, "defaults.batch_size=8"))

    take(twice, 2)
    take(once, 1)

    for (name, a), b in zip(
        twice.models["expander"].named_parameters(), once.models["expander"].parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_an_update_whose_losses_are_lazy_steps_when_the_window_closes_without_them(
    checked: Checker, live: Maker
) -> None:
    step = live(checked(VAE_GAN, "steps.vae_gan.accumulate=2", f"{VAE}.losses={{l1: {{every: 2}}}}"))
    before = weights(step.models)

    take(step, 2)

    assert changed(before, step.models) >= {"compressor", "expander"}


def test_with_accumulation_the_adversarial_gradient_still_reaches_the_decoder(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN, "steps.vae_gan.accumulate=2", f"{VAE}.losses={{hinge_generator: {{}}}}"))

    take(step, 1)

    grads = [p.grad for p in step.models["expander"].parameters() if p.grad is not None]
    assert grads
    assert any(grad.any() for grad in grads)


def test_clipping_bounds_the_step(checked: Checker, live: Maker) -> None:
    sgd = [
        f"{VAE}.optimizer={{type: SGD, lr: 1.0}}",
        f"{VAE}.scheduler=null",
        f"{VAE}.clip_grad_norm=1.0e-3",
    ]
    step = live(checked(VAE_GAN, *sgd))
    before = weights(step.models)

    take(step, 1)

    moved = [
        (p.detach() - before[f"{name}.{key}"]).square().sum()
        for name in ("compressor", "expander")
        for key, p in step.models[name].named_parameters()
    ]
    assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_finite_losses_close_to_full(checked: Checker, live: Maker, precision: str) -> None:
    full, half = (live(checked(VAE_GAN, f"steps.vae_gan.precision={p}")) for p in ("fp32", precision))
    before = weights(half.models)

    seen = []
    half.models["expander"].register_forward_hook(lambda *given: seen.append(given[2].dtype))

    take(full, 1)
    take(half, 1)

    a, b = full.metrics.fetch(), half.metrics.fetch()
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]]
    assert b["vae/l1"] == pytest.approx(a["vae/l1"], rel=0.05)
    assert changed(before, half.models) >= {"compressor", "expander", "discriminator"}


class _Poison:
    """A loss that is not finite on one batch."""

    default_weight = 1.0

    def __call__(self, reconstruction: torch.Tensor, step_batch: int) -> torch.Tensor:
        return reconstruction.mean() * (math.nan if step_batch == 1 else 1.0)


def poisoned(registry: Any) -> Any:
    """The registry with a loss `poison` beside the others."""
    from types import SimpleNamespace

    from fluxflow_registry import hookimpl
    from fluxflow_registry.registry.discovery import add_plugin
    from fluxflow_registry.registry.discovery import load as load_registry

    @hookimpl
    def fluxflow_register_losses(register: Any) -> None:
        register("poison", _Poison)

    from fluxflow_registry.registry.registry import Plugin

    made = load_registry(PLUGINS)
    add_plugin(
        made, Plugin("poison", "test", "1", "here"), SimpleNamespace(fluxflow_register_losses=fluxflow_register_losses)
    )
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_loss_that_is_not_finite_leaves_every_weight_and_moment_as_it_was(
    checked: Checker, live: Maker, registry: Any, precision: str
) -> None:
    text = VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}")
    step = live(checked(text, f"steps.vae_gan.precision={precision}", using=poisoned(registry)))
    vae = step.updates[1]
    batches = iter(step.batches(0, 0))
    step.run(next(batches), Position())
    before, rate = weights(step.models), vae.optimizer.optimizer.param_groups[0]["lr"]
    moments = {id(p): s["exp_avg"].clone() for p, s in vae.optimizer.optimizer.state.items()}

    step.run(next(batches), Position(batch=1, step_batch=1))

    assert changed(before, step.models) == {"discriminator"}
    assert all(torch.equal(moments[id(p)], s["exp_avg"]) for p, s in vae.optimizer.optimizer.state.items())
    assert vae.optimizer.optimizer.param_groups[0]["lr"] == rate
    assert vae.skipped_in_a_row == 1
    assert math.isnan(step.metrics.fetch()["vae/poison"])
    step.run(next(batches), Position(batch=2, step_batch=2))
    assert vae.skipped_in_a_row == 0
    assert changed(before, step.models) >= {"compressor", "expander"}


def test_a_run_without_a_single_finite_batch_gives_up_and_names_the_loss(
    checked: Checker, registry: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Poison, "__call__", lambda self, reconstruction: reconstruction.mean() * math.nan)
    reported = r"(?s)update `vae`: `vae/poison` has not been finite for 20 batches in a row.*status +no batch of"
    text = VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}")
    recipe = checked(text, "steps.vae_gan.epochs=9", "defaults.log_every=20", using=poisoned(registry))

    with pytest.raises(TrainingError, match=reported):
        start(recipe, tmp_path)


def test_an_image_that_is_not_finite_changes_neither_weights_nor_what_is_measured_of_the_latents(
    checked: Checker, live: Maker
) -> None:
    step = live(checked(VAE_GAN))
    batches = iter(step.batches(0, 0))
    step.run(next(batches), Position())
    before = weights(step.models)
    read = next(batches)
    bad = dict(read.fields)
    bad["image"] = bad["image"].clone()
    bad["image"][0, 0, 0, 0] = math.nan

    step.run(evolve(read, fields=bad), Position(batch=1, step_batch=1))

    assert all(torch.equal(before[f"{n}.{k}"], v) for n, m in step.models.items() for k, v in m.state_dict().items())
    assert [turn.outcome for turn in step.updates] == ["skipped", "skipped"]


def test_a_short_window_at_an_epochs_end_is_an_average_too(checked: Checker, live: Maker) -> None:
    alone = ["values={latent: {sample: false}}", f"{VAE}.losses={{l1: {{}}}}", f"{VAE}.scheduler=null"]
    sgd = f"{VAE}.optimizer={{type: SGD, lr: 0.1}}"
    short = live(checked(VAE_GAN, *alone, sgd, "steps.vae_gan.accumulate=4", "steps.vae_gan.max_steps=1"))
    plain = live(checked(VAE_GAN, *alone, sgd, "steps.vae_gan.max_steps=1"))

    take(short, 1)
    take(plain, 1)

    for a, b in zip(short.models["expander"].parameters(), plain.models["expander"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_lazy_update_does_not_hold_up_the_averages_of_another(checked: Checker, live: Maker) -> None:
    text = VAE_GAN.replace("epochs: 2", "epochs: 2\n    ema: {models: [expander], decay: 0.5, warmup: false}")
    step = live(checked(text, "steps.vae_gan.updates.discriminator.losses={r1: {every: 4}}"))
    seen = []

    for index, batch in zip(range(3), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=index, step_batch=index))
        seen.append(next(step.averages["expander"].module.parameters()).clone())

    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_a_step_that_changes_no_weight_fails_and_reports_the_skipped_batches(
    checked: Checker, registry: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Poison, "__call__", lambda self, reconstruction: reconstruction.mean() * math.nan)
    text = VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}")
    reported = r"(?s)update `vae` of step `vae_gan` has not changed a single weight.*cause  12 batches were skipped"

    with pytest.raises(TrainingError, match=reported):
        start(checked(text, using=poisoned(registry)), tmp_path)


def test_a_loss_that_detaches_its_inputs_is_rejected_before_training(
    checked: Checker, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.engine.preflight.shapes import prove_shapes
    from fluxflow_registry.errors import RecipeError

    monkeypatch.setattr(_Poison, "__call__", lambda self, reconstruction: reconstruction.detach().mean())
    text = VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}")

    with pytest.raises(
        RecipeError,
        match="loss `poison` of update `vae` has no gradient: it detaches its inputs, or does not use them",
    ):
        prove_shapes(checked(text, using=poisoned(registry)))


def test_a_loss_that_changes_the_inputs_of_others_is_rejected_before_training(
    checked: Checker, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.engine.preflight.shapes import prove_shapes
    from fluxflow_registry.errors import RecipeError

    def spoils(self: Any, reconstruction: torch.Tensor) -> torch.Tensor:
        value = reconstruction.mean()
        reconstruction.detach().mul_(0)
        return value

    monkeypatch.setattr(_Poison, "__call__", spoils)
    text = VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}")

    reported = r"(?s)loss `poison` of update `vae` changes `reconstruction` in place, but other components .*defined in"
    with pytest.raises(RecipeError, match=reported):
        prove_shapes(checked(text, using=poisoned(registry)))


def test_a_loss_that_raises_is_reported_with_the_line_that_raised(
    checked: Checker, registry: Any, monkeypatch: pytest.MonkeyPatch, live: Maker
) -> None:
    from fluxflow_registry.engine.preflight.shapes import prove_shapes
    from fluxflow_registry.errors import RecipeError

    def breaks(self: Any, reconstruction: torch.Tensor) -> torch.Tensor:
        return reconstruction.men()  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setattr(_Poison, "__call__", breaks)
    recipe = checked(VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}"), using=poisoned(registry))

    reported = r"(?s)'men'.*raised at +tests/engine/test_training.py:\d+ +return reconstruction.men\(\)"
    with pytest.raises(RecipeError, match=reported):
        prove_shapes(recipe)
    with pytest.raises(TrainingError, match=reported):
        take(live(recipe), 1)


def test_a_lazy_loss_stands_in_the_next_line_that_is_logged(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN, "steps.vae_gan.updates.discriminator.losses.r1.every=3"))

    take(step, 2)

    assert {"discriminator/r1", "vae/l1"} <= set(step.metrics.fetch())


def test_averages_follow_their_equation_with_warm_up() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average, expected = Average(model, decay=0.5, warmup=True), 0.0

    for n in range(12):
        with torch.no_grad():
            model.weight.fill_(float(n))
        average.update(n)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * n

    assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]
    assert not average.module.weight.requires_grad


def test_averaged_weights_are_evaluated_sampled_and_adopted_at_the_end(
    checked: Checker, live: Maker, tmp_path: Any
) -> None:
    recipe = checked(VAE_GAN + FLOW)
    step = live(recipe, 1)
    take(step, 3)
    average = step.averages["flow_processor"].module

    used = step.evaluation_models()["flow_processor"]
    raw = [p.clone() for p in step.models["flow_processor"].parameters()]
    step.adopt_averages()

    assert used is average
    assert any(not torch.equal(a, b) for a, b in zip(raw, average.parameters(), strict=True))
    adopted = step.models["flow_processor"].parameters()
    assert all(torch.equal(a, b) for a, b in zip(adopted, average.parameters(), strict=True))


def test_adding_a_loss_does_not_change_the_noise_of_another_value(checked: Checker, live: Maker) -> None:
    recipe = VAE_GAN + FLOW
    plain = live(checked(recipe), 1)
    more = live(
        checked(
            recipe.replace(
                "{velocity: {}}", "{velocity: {}, l1: {with: {reconstruction: velocity, image: velocity_target}}}"
            )
        ),
        1,
    )

    take(plain, 1)
    take(more, 1)

    assert torch.equal(plain.values.kept["noise"].bare, more.values.kept["noise"].bare)
    assert torch.equal(plain.values.kept["time"].bare, more.values.kept["time"].bare)


def test_the_tally_gives_mean_minimum_maximum_and_the_mean_of_the_last_twenty() -> None:
    tally = StepMetrics()
    numbers = [float(n * 7 % 30) + 1 for n in range(5, 35)]  # neither end is the least or the greatest
    for number in numbers:
        tally.add({"loss": torch.tensor(number), "lr": 0.5})
    tally.add({"loss": torch.tensor(math.nan)})

    summary = tally.summaries()
    tally.close_epoch(summary)

    assert summary["loss"] == Summary(sum(numbers) / 30, 1.0, 30.0, sum(numbers[-20:]) / 20)
    assert summary["lr"] == Summary(0.5, 0.5, 0.5, 0.5)
    assert tally.history["loss"] == [summary["loss"]]


def test_results_of_two_metrics_with_one_name_are_distinguished(checked: Checker, tmp_path: Any) -> None:
    text = VAE_GAN + FLOW.replace(
        "metrics: {shapes_judge: {}}", "metrics: {a: {type: shapes_judge}, b: {type: shapes_judge}}"
    )

    results = start(checked(text), tmp_path).run.history.results["flow"]["seen"]

    assert results["colour"] == results["b/colour"] <= 1.0


def test_a_loss_may_request_a_generated_image(checked: Checker, live: Maker) -> None:
    from fluxflow_registry.engine.preflight.shapes import prove_shapes

    text = VAE_GAN + FLOW.replace("{velocity: {}}", "{velocity: {}, l1: {with: {reconstruction: generated_image}}}")
    recipe = checked(text)

    prove_shapes(recipe)
    step = live(recipe, 1)
    take(step, 1)

    assert "flow/l1" in step.metrics.fetch()


def test_a_step_ends_by_its_threshold_and_by_its_limit(checked: Checker, tmp_path: Any) -> None:
    until = "steps.vae_gan.until={{type: loss_threshold, metric: vae_loss, threshold: {}, max_epochs: 3}}"

    reached = start(checked(VAE_GAN, until.format("100.0")), tmp_path / "a").run
    limited = start(checked(VAE_GAN, until.format("-100.0")), tmp_path / "b").run

    assert len(reached.live.metrics.history["vae_loss"]) == 1
    assert len(limited.live.metrics.history["vae_loss"]) == 3


@pytest.mark.parametrize("error", [AssertionError("odd"), ZeroDivisionError("odd"), OSError("odd"), Exception("odd")])
def test_whatever_a_value_raises_is_reported_with_its_name(checked: Checker, tmp_path: Path, error: Exception) -> None:
    def shifted(reconstruction: torch.Tensor) -> torch.Tensor:
        raise error

    using = load(PLUGINS)
    add_plugin(using, Plugin("own", "test", "1", "here"), plugin(values={"shifted": shifted}))
    recipe = checked(VAE_GAN, f"{VAE}.losses.l1={{with: {{reconstruction: shifted}}}}", using=using)
    expected = f"value `shifted` failed: {type(error).__name__}: odd"

    with pytest.raises(RecipeError, match=f"in step `vae_gan`, {expected}"):
        prove_shapes(recipe)
    with pytest.raises(TrainingError, match=expected):
        start(recipe, tmp_path / "runs")
