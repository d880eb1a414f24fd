"""Compiled models train as uncompiled ones do, whatever a recipe does with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_gan.losses import R1
from fluxflow_registry.check.checker import check
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.testing import registry_with

from ..recipes import DEFAULT, RECIPES, SHIPPED
from ..small import FLOW, PLUGINS, VAE_GAN
from .conftest import StopAfter, start, weights
from .test_resume import finals

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]


def fast(names: Iterable[Any], *those: Any) -> list[Any]:
    """Each name with each compiler; in the fast tests only `those`, with the compiler that is fast itself."""
    found = []
    for name in names:
        for backend in ("aot_eager", "inductor"):
            marks = () if name in those and backend == "aot_eager" else (pytest.mark.slow,)
            found.append(pytest.param(name, backend, marks=marks, id=f"{label(name)} {backend}"))
    return found


def label(name: Any) -> str:
    return str(name.relative_to(RECIPES)) if isinstance(name, Path) else str(name) if len(name) < 50 else "recipe"


BATCHES = 3

#: torch hides the first of its own warnings, where warnings are not errors; the second is about a pure function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call"),
]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(backend: str, *models: str) -> list[str]:
    return [f"models.{model}.compile={{backend: {backend}, dynamic: false}}" for model in models]


def trained(live: LiveStep, batches: int = BATCHES) -> dict[str, float]:
    """The metrics of the first batches, and the weights and averages after them, each as a sum and a sum of squares."""
    found: dict[str, float] = {}
    for index, batch in zip(range(batches), live.batches(0, 0), strict=False):
        live.run(batch, Position(0, 0, index, index, index))
        found |= {f"{name} {index}": value for name, value in live.metrics.logged().items()}
    averages = {f"average of {name}": average.module for name, average in live.averages.items()}
    for name, weight in weights({**live.models, **averages}).items():
        found[f"sum of {name}"] = float(weight.double().sum())
        found[f"norm of {name}"] = float(weight.double().norm())
    return found


def same(expected: dict[str, float]) -> Any:
    return pytest.approx(expected, rel=1e-3, abs=1e-4)


#: The shipped recipes with a discriminator, and what lets them train in a second.
ADVERSARIAL = [path for path in SHIPPED if "discriminator" in path.read_text()]


def shortened(path: Path, everything: Registry, *settings: str) -> tuple[RecipePlan, int]:
    """The recipe with small models and images, and the number of its adversarial step."""
    plan = check(path, everything, ["steps.vae_gan.updates.vae.losses.lpips.random=true"] if _lpips(path) else [])
    number = next(n for n, step in enumerate(plan.steps) if "discriminator" in step.trains)
    name, own = plan.steps[number].name, plan.steps[number].updates["vae"].losses
    small = [f"models.{model}.width=4" for model in ("compressor", "expander", "discriminator")]
    small += [f"models.{model}.{key}" for model in ("compressor", "expander") for key in ("depth=0", "downscale=4")]
    small += ["models.discriminator.depth=1"]
    small += [f"datasets.{label}={{type: shapes, image_size: 16, length: 64}}" for label in plan.datasets]
    small += [f"steps.{name}.{key}" for key in ("batch_size=2", "precision=fp32", "updates.vae.start=0", "workers=0")]
    small += [f"steps.{name}.updates.discriminator.losses.r1.every=2"]
    small += [f"steps.{name}.updates.vae.losses.hinge_generator.warmup=0"] if "hinge_generator" in own else []
    small += ["steps.vae_gan.updates.vae.losses.lpips=false"] if _lpips(path) else []
    return check(path, everything, [*small, *settings]), number


def _lpips(path: Path) -> bool:
    return path == RECIPES / "fluxflow_1024.yaml"


@pytest.mark.parametrize(("path", "backend"), fast(ADVERSARIAL, DEFAULT))
def test_a_shipped_adversarial_recipe_trains_compiled_as_it_does_uncompiled(
    path: Path, backend: str, everything: Registry, live: Maker
) -> None:
    expected = trained(live(*shortened(path, everything)))

    settings = compiled(backend, "compressor", "expander", "discriminator")
    found = trained(live(*shortened(path, everything, *settings)))

    assert "discriminator/r1 0" in found
    assert found == same(expected)


VAE = "steps.vae_gan.updates.vae"

NORM = f"{VAE}.balancer={{type: gradient_norm, layer: expander.out.0.weight, balanced: [hinge_generator]}}"
AVERAGES = "steps.vae_gan.ema={models: [compressor, expander]}"
CHECKPOINTING = ["models.compressor.checkpointing=true", "models.expander.checkpointing=true"]

VARIANTS = {
    "plain": [],
    "no detach": [f"{VAE}.losses.hinge_generator.detach=[]"],
    "gradient norm": [NORM],
    "averages": [AVERAGES],
    "checkpointing": CHECKPOINTING,
    "spectral norm": ["models.discriminator.spectral_norm=true"],
    # The gradient of a bias before a norm is rounding errors, which Adam with its own eps would scale to whole steps.
    "batch norm": ["models.compressor.norm=batch", "models.expander.norm=batch", f"{VAE}.optimizer.eps=1.0e-3"],
    "accumulated": ["steps.vae_gan.accumulate=2"],
    "half precision": ["steps.vae_gan.precision=bf16"],
    "everything": [NORM, AVERAGES, *CHECKPOINTING],
    "frozen discriminator": ["steps.vae_gan.updates.discriminator=false", "models.discriminator.untrained=true"],
}


@pytest.mark.parametrize(("variant", "backend"), fast(VARIANTS, "everything"))
def test_a_compiled_recipe_trains_as_it_does_uncompiled_with(
    variant: str, backend: str, checked: Checker, live: Maker
) -> None:
    plain = checked(VAE_GAN, *VARIANTS[variant])
    expected = trained(live(plain))

    settings = [*VARIANTS[variant], *compiled(backend, "compressor", "expander", "discriminator")]
    recipe = checked(VAE_GAN, *settings)
    prove_shapes(recipe)
    found = trained(live(recipe))

    tolerance = 3e-2 if variant == "half precision" else 1e-3
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_the_comparison_notices_a_penalty_whose_gradient_is_dropped(
    checked: Checker, live: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(live(checked(VAE_GAN)))
    penalty = R1._penalty

    def without_gradient(self: R1, image: Tensor, discriminator: nn.Module) -> Tensor:
        nothing: Tensor = 0 * discriminator(image).mean()
        return penalty(self, image, discriminator).detach() + nothing

    monkeypatch.setattr(R1, "_penalty", without_gradient)
    found = trained(live(checked(VAE_GAN)))

    assert found["discriminator/r1 0"] == pytest.approx(expected["discriminator/r1 0"])
    assert found != same(expected)


def test_a_gradient_that_the_compiler_would_drop_ends_the_run_with_the_model_to_leave_uncompiled(
    checked: Checker, live: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxflow_registry.engine.graph.losses.uncompiled", lambda models: nullcontext())
    step = live(checked(VAE_GAN, *compiled("aot_eager", "discriminator")))

    with pytest.raises(TrainingError) as raised:
        trained(step)

    (problem,) = raised.value.problems
    assert problem.message == "the gradient of model `discriminator` is differentiated again, but the model is compiled"
    assert problem.subject == "discriminator"


def slope(reconstruction: Tensor, latent: Tensor) -> Tensor:
    """A penalty on the gradient of one value by another, as in path length regularization."""
    (gradient,) = torch.autograd.grad(reconstruction.sum(), latent, create_graph=True)
    return gradient.square().mean()


def test_a_value_that_a_loss_differentiates_twice_is_rejected_where_its_model_is_compiled(checked: Checker) -> None:
    registry = registry_with(PLUGINS, losses={"slope": slope})
    setting = f"{VAE}.losses.slope={{}}"
    prove_shapes(checked(VAE_GAN, setting, using=registry))
    recipe = checked(VAE_GAN, setting, *compiled("aot_eager", "expander"), using=registry)

    with pytest.raises(RecipeError) as rejected:
        prove_shapes(recipe)

    (problem,) = rejected.value.problems
    assert problem.message.endswith(
        "the gradient of model `expander` is differentiated again, but the model is compiled"
    )
    assert ("hint", "remove `compile` from model `expander`: torch.compile has no second derivatives") in problem.notes
    assert any(label == "defined in" and "def slope" in text for label, text in problem.notes)
    assert problem.where is not None


def test_compiling_a_model_whose_forward_nothing_calls_is_rejected(checked: Checker) -> None:
    def through_a_method(latent: Tensor, expander: nn.Module) -> Tensor:
        """An image, decoded without a call of the module."""
        image: Tensor = expander.forward(latent)
        return image

    registry = registry_with(PLUGINS, values={"decoded": through_a_method})
    settings = [f"{VAE}.losses.l1={{with: {{reconstruction: decoded}}}}", f"{VAE}.losses.hinge_generator=false"]
    settings += ["steps.vae_gan.updates.discriminator=false"]
    prove_shapes(checked(VAE_GAN, *settings, using=registry))

    with pytest.raises(RecipeError) as rejected:
        prove_shapes(checked(VAE_GAN, *settings, *compiled("aot_eager", "expander"), using=registry))

    (problem,) = rejected.value.problems
    assert problem.message.startswith(
        "`compile` has no effect on model `expander`: no value of a step calls its `forward`"
    )
    assert "compile" in str(problem.where)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("text", "backend"), fast([VAE_GAN, VAE_GAN + FLOW], VAE_GAN))
def test_a_recipe_with_everything_compiled_resumes_bit_by_bit(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any], text: str, backend: str
) -> None:
    recipe, settings = checked(text), []
    for model in recipe.models:
        settings += compiled(backend, model) if model in recipe.steps[0].values or text != VAE_GAN else []
    recipe = checked(text, *settings)
    whole = uninterrupted(text, *settings)

    first = start(recipe, tmp_path / "cut", [StopAfter("batch_ended", 3)])
    torch.compiler.reset()  # another process compiles again
    second = start(recipe, tmp_path / "cut")

    assert first.stopped is not None
    assert finals(second.run) == finals(whole)


def test_a_model_that_cannot_be_compiled_is_named(checked: Checker, live: Maker) -> None:
    class Printing(nn.Module):
        """A decoder with a part that cannot be compiled in one piece."""

        def __init__(self) -> None:
            super().__init__()
            self.color = nn.Conv2d(2, 3, 1)
            self.downscale = 4

        def forward(self, latent: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return torch.nn.functional.interpolate(self.color(latent), scale_factor=4)

    registry = registry_with(PLUGINS, models={"printing": lambda: Printing()})
    text = VAE_GAN.replace("{type: expander, latent_channels: 2, width: 8}", "printing")
    compile_ = "models.expander.compile={backend: aot_eager, fullgraph: true}"
    step = live(checked(text, compile_, using=registry))

    with pytest.raises(TrainingError) as raised:
        trained(step)

    (problem,) = raised.value.problems
    assert problem.message.startswith("model `expander` cannot be compiled: Unsupported")
    assert dict(problem.notes)["hint"] == "remove `compile` from model `expander`, or choose another `backend`"
