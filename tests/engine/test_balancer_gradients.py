"""A balancer sees the gradient of each loss at a parameter: the parts of what the walk back leaves there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.contracts import Gradients, Position
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import FluxflowError, RecipeError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..small import PLUGINS, VAE_GAN
from ..synthetic import plugin

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]
STEP = "steps.vae_gan"
VAE = f"{STEP}.updates.vae"
LAST = "expander.out.0.weight"


@frozen
class Spy:
    """A balancer that remembers what it was shown, and doubles one loss."""

    layer: str
    double: str = "l1"
    seen: ClassVar[list[tuple[dict[str, Tensor], dict[str, float]]]] = []

    def __call__(self, gradients: Gradients) -> Any:
        gradients.check(self.layer)

        def weigh(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
            assert not any(loss.requires_grad for loss in losses.values())
            Spy.seen.append((dict(gradients(self.layer)), dict(gradients.weights)))
            return {self.double: torch.tensor(2.0)}

        return weigh


@pytest.fixture(scope="module")
def spying() -> Registry:
    made = load(PLUGINS)
    add_plugin(made, Plugin("spy", "test", "1", "here"), plugin(balancers={"spy": Spy}))
    return made


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Spy.seen.clear()


def begin(step: LiveStep, step_batch: int = 0) -> None:
    batch = next(iter(step.batches(0, 0)))
    step.values.draws.at(0, "test")
    step.values.begin(batch.fields, step_batch=step_batch, **step.context)


def parameter_of(step: LiveStep, name: str) -> Any:
    model, _, key = name.partition(".")
    return dict(step.models[model].named_parameters())[key]


def names_of(step: LiveStep, *models: str) -> list[str]:
    return [f"{model}.{key}" for model in models for key, _ in step.models[model].named_parameters()]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("detach", ["[latent]", "[]", "[posterior]", "[posterior, latent]"])
def test_the_parts_add_up_to_what_the_walk_back_leaves_whatever_is_cut(
    checked: Checker, live: Maker, spying: Registry, detach: str, precision: str
) -> None:
    cut = f"{VAE}.losses.hinge_generator.detach={detach}"
    whole = live(checked(VAE_GAN, using=spying))
    for name in (*names_of(whole, "expander")[::3], *names_of(whole, "compressor")[::3]):
        balancer = f"{VAE}.balancer={{type: spy, layer: {name}}}"
        step = live(checked(VAE_GAN, cut, balancer, f"{STEP}.precision={precision}", using=spying))
        begin(step, 1)
        step.updates[1].run(1, closing=False)

        found, weights = Spy.seen.pop()

        scaler = step.updates[1].optimizer.scaler
        left = parameter_of(step, name).grad / (scaler.get_scale() if scaler else 1)
        factors = {**weights, "l1": 2 * weights["l1"]}
        parts = [factors[label] * gradient for label, gradient in found.items()]
        rounding = {"fp32": 1e-5, "fp16": 2e-2}[precision]
        assert (torch.stack(parts).sum(dim=0) - left).norm() <= rounding * left.norm()
        reached = {"l1", "hinge_generator"} if name.startswith("expander") or detach == "[]" else {"l1"}
        assert set(found) - {"kl"} == reached
        assert weights == {"l1": 1.0, "kl": pytest.approx(1e-3 * 0.0955, rel=1e-3), "hinge_generator": 0.1}


def test_a_loss_that_a_batch_leaves_out_is_not_among_them(checked: Checker, live: Maker, spying: Registry) -> None:
    lazy = f"{VAE}.losses.hinge_generator.every=2"
    step = live(checked(VAE_GAN, lazy, f"{VAE}.balancer={{type: spy, layer: {LAST}}}", using=spying))

    for index, batch in zip(range(3), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=index, step_batch=index))

    assert [set(found) for found, _ in Spy.seen] == [{"l1", "hinge_generator"}, {"l1"}, {"l1", "hinge_generator"}]


def test_nothing_is_walked_for_a_balancer_that_does_not_ask(
    checked: Checker, live: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "fluxflow_registry.engine.training.loss_weights.gradient_at", lambda *given: calls.append(given)
    )
    step = live(checked(VAE_GAN, f"{VAE}.balancer=inverse"))

    step.run(next(iter(step.batches(0, 0))), Position())

    assert calls == []


def test_a_missing_parameter_is_reported_before_training(checked: Checker, spying: Registry) -> None:
    recipe = checked(VAE_GAN, f"{VAE}.balancer={{type: spy, layer: expander.out.weight}}", using=spying)
    reported = (
        r"(?s)recipe.yaml|--set .*in step `vae_gan`, balancer `spy` of update `vae`: "
        r"`expander.out.weight` is not a parameter that the update trains"
        r".*nearest +expander.out.0.weight"
    )

    with pytest.raises(RecipeError, match=reported):
        prove_shapes(recipe)


UNREACHED = [
    # The plan knows: the loss depends on another model, or is cut before this one.
    ("proof", "expander.out.0.weight", "kl", "`compressor`"),
    ("training", "expander.out.0.weight", "kl", "`compressor`"),
    ("proof", "compressor.mean.weight", "hinge_generator", "`expander`, detached at `latent`"),
    ("training", "compressor.mean.weight", "hinge_generator", "`expander`, detached at `latent`"),
    # Only the walk back does: the loss depends on another parameter of the same model.
    ("proof", "compressor.logvar.weight", "half", "`compressor`"),
]


def half(posterior: Any) -> Tensor:
    """A loss that moves the mean alone."""
    mean: Tensor = posterior.mean
    return mean.square().mean()


@pytest.mark.parametrize(("use", "layer", "label", "moves"), UNREACHED)
def test_a_loss_that_does_not_reach_the_layer_is_reported_before_training(
    checked: Checker, live: Maker, use: str, layer: str, label: str, moves: str
) -> None:
    registry = load(PLUGINS)
    add_plugin(registry, Plugin("half", "test", "1", "here"), plugin(losses={"half": half}))
    balancer = f"{VAE}.balancer={{type: gradient_norm, layer: {layer}, balanced: [{label}]}}"
    extra = [f"{VAE}.losses.half={{}}"] if label == "half" else []
    recipe = checked(VAE_GAN, *extra, balancer, using=registry)

    with pytest.raises(FluxflowError) as caught:
        prove_shapes(recipe) if use == "proof" else live(recipe)

    (problem,) = caught.value.problems
    assert f"balancer `gradient_norm` of update `vae`: loss `{label}` does not reach `{layer}`" in problem.message
    assert problem.message.startswith("in step `vae_gan`, ") == (use == "proof")
    assert str(problem.where).startswith("--set steps.vae_gan.updates.vae.balancer")
    assert dict(problem.notes)["cause"] == f"it reaches {moves}"


def test_losses_that_reach_the_layer_across_a_cut_elsewhere_pass(checked: Checker) -> None:
    balancer = f"{VAE}.balancer={{type: gradient_norm, layer: {LAST}, balanced: [hinge_generator], against: [l1]}}"

    prove_shapes(checked(VAE_GAN, balancer))


def test_a_weigher_that_fails_is_named_with_its_update_and_its_place(
    checked: Checker, live: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = live(checked(VAE_GAN, f"{VAE}.balancer=inverse"))
    monkeypatch.setattr(step.updates[1].weights, "weigher", lambda losses: losses["absent"])

    with pytest.raises(TrainingError, match="balancer `inverse` of update `vae` failed: KeyError: 'absent'") as caught:
        step.run(next(iter(step.batches(0, 0))), Position())

    assert str(caught.value.problems[0].where).startswith("--set steps.vae_gan.updates.vae.balancer")


def test_the_weight_of_a_loss_is_logged_where_it_changes(checked: Checker, live: Maker, spying: Registry) -> None:
    balanced = live(checked(VAE_GAN, f"{VAE}.balancer={{type: spy, layer: {LAST}}}", using=spying))
    plain = live(checked(VAE_GAN))

    for step in (balanced, plain):
        step.run(next(iter(step.batches(0, 0))), Position(step_batch=5))

    figures = balanced.metrics.fetch()
    assert {name: value for name, value in figures.items() if name.endswith("/weight")} == {
        "vae/l1/weight": 2.0,
        "vae/kl/weight": pytest.approx(1e-3),
        "vae/hinge_generator/weight": pytest.approx(0.1),
    }
    assert [name for name in plain.metrics.fetch() if name.endswith("/weight")] == ["vae/kl/weight"]
    losses = ("l1", "kl", "hinge_generator")
    total = sum(figures[f"vae/{name}"] * figures[f"vae/{name}/weight"] for name in losses)
    assert figures["vae_loss"] == pytest.approx(total, rel=1e-5)
