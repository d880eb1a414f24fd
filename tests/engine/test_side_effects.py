"""What components return, and what they change beside it, is inspected before training."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.preflight.everything import try_everything
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.testing import registry_with

from ..small import FLOW, PLUGINS, VAE_GAN

Checker = Callable[..., RecipePlan]

VAE = "steps.vae_gan.updates.vae"

CPU = torch.device("cpu")


def rejected(recipe: RecipePlan) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        try_everything(recipe, CPU)
    return list(caught.value.problems)


def the_problem(recipe: RecipePlan) -> Problem:
    """The only problem of a recipe; it has a location in it, and shows where the component is defined."""
    (problem,) = rejected(recipe)
    assert problem.where is not None
    assert any(label == "defined in" and "test_side_effects.py" in text for label, text in problem.notes)
    return problem


def steps_backward(reconstruction: Tensor) -> Tensor:
    loss = reconstruction.square().mean()
    torch.autograd.backward(loss, retain_graph=True)
    return loss


def freezes(reconstruction: Tensor, expander: nn.Module) -> Tensor:
    expander.requires_grad_(False)
    return reconstruction.square().mean()


def evaluates(reconstruction: Tensor, compressor: nn.Module) -> Tensor:
    compressor.eval()
    return reconstruction.square().mean()


def trains(reconstruction: Tensor, discriminator: nn.Module) -> Tensor:
    discriminator.train()
    return discriminator(reconstruction).mean()  # type: ignore[no-any-return]


def decays(reconstruction: Tensor, expander: nn.Module) -> Tensor:
    with torch.no_grad():
        for parameter in expander.parameters():
            parameter.mul_(0.9)
    return reconstruction.square().mean()


def replaces(reconstruction: Tensor, expander: nn.Module) -> Tensor:
    for parameter in expander.parameters():
        parameter.data = parameter.data.clone()
    return reconstruction.square().mean()


def empties(reconstruction: Tensor, caption: list[str]) -> Tensor:
    caption.clear()
    return reconstruction.square().mean()


def switches_gradients_off(reconstruction: Tensor) -> Tensor:
    loss = reconstruction.square().mean()
    torch.set_grad_enabled(False)
    return loss


def spectrum(reconstruction: Tensor) -> Tensor:
    transformed: Tensor = torch.fft.fft2(reconstruction)
    return transformed.mean()


def several(reconstruction: Tensor) -> Any:
    return [reconstruction.mean()]


LOSSES: Mapping[str, tuple[Any, str, str]] = {
    "backward": (steps_backward, "adds gradients to `expander.", "changed-model"),
    "requires_grad": (freezes, "sets `requires_grad` of `expander.", "changed-model"),
    "eval": (evaluates, "calls `train()` or `eval()` of `compressor`, `compressor.", "changed-model"),
    "train": (trains, "calls `train()` or `eval()` of `discriminator`, ", "changed-model"),
    "weights": (decays, "changes the weights of `expander.", "changed-model"),
    "other weights": (replaces, "changes the weights of `expander.", "changed-model"),
    "a list": (empties, "changes `caption` in place", "changed-in-place"),
    "gradients": (switches_gradients_off, "switches gradients off or on", "changed-in-place"),
    "complex": (spectrum, "returned a complex number; a loss must be real", "wrong-return"),
    "several": (several, "returned list; a loss must be a 0-d tensor", "wrong-return"),
}


@pytest.mark.parametrize("what", LOSSES)
def test_a_loss_that_does_more_than_return_a_number_is_rejected(what: str, checked: Checker) -> None:
    loss, words, code = LOSSES[what]
    registry = registry_with(PLUGINS, losses={"wrong": loss})
    settings = [f"{VAE}.losses.wrong={{}}"]
    if what == "train":  # in training only models that the step trains are in training mode
        settings += ["steps.vae_gan.updates.discriminator=false", "models.discriminator.untrained=true"]

    problem = the_problem(checked(VAE_GAN, *settings, using=registry))

    assert problem.message.startswith(f"in step `vae_gan`, loss `wrong` of update `vae` {words}")
    assert problem.code == code
    assert torch.is_grad_enabled()


def frozen_value(latent: Tensor, expander: nn.Module) -> Tensor:
    """An image of a model that is switched to evaluation for it."""
    image: Tensor = expander.eval()(latent)
    return image


def test_a_value_that_changes_the_mode_of_a_model_is_rejected(checked: Checker) -> None:
    registry = registry_with(PLUGINS, values={"decoded": frozen_value})
    setting = f"{VAE}.losses.l1={{with: {{reconstruction: decoded}}}}"

    (problem,) = rejected(checked(VAE_GAN, setting, using=registry))

    assert "value `decoded` calls `train()` or `eval()` of `expander`" in problem.message


class Codebook(nn.Module):
    """A decoder that moves its own weights in its forward, as codebooks do."""

    def __init__(self) -> None:
        super().__init__()
        from fluxflow_vae.models import ExpanderBuilder

        self.inner = ExpanderBuilder(latent_channels=2, width=8)()
        self.downscale = self.inner.downscale
        self.code = nn.Parameter(torch.zeros(2))

    def forward(self, latent: Tensor) -> Tensor:
        with torch.no_grad():
            self.code.lerp_(latent.mean(dim=(0, 2, 3)), 0.1)
        image: Tensor = self.inner(latent + self.code[:, None, None])
        return image


def test_a_model_may_change_its_own_weights_in_its_forward(checked: Checker) -> None:
    registry = registry_with(PLUGINS, models={"codebook": lambda: Codebook()})

    try_everything(
        checked(VAE_GAN.replace("{type: expander, latent_channels: 2, width: 8}", "codebook"), using=registry), CPU
    )


def inverted(image: Tensor) -> Tensor:
    return image.neg_().mean()


def relabeled(image: Tensor, caption: list[str]) -> Tensor:
    caption[0] = ""
    return image.mean()


@pytest.mark.parametrize(("metric", "name"), [(inverted, "image"), (relabeled, "caption")])
def test_a_metric_that_changes_what_other_metrics_see_is_rejected(metric: Any, name: str, checked: Checker) -> None:
    registry = registry_with(PLUGINS, metrics={"wrong": metric})
    evaluate = "steps.vae_gan.evaluate={e: {dataset: shapes, metrics: {wrong: {}}}}"

    problem = the_problem(checked(VAE_GAN, evaluate, using=registry))

    assert problem.message.startswith("metric `wrong` of evaluation `e` in step `vae_gan` changes")
    assert f"`{name}` in place" in problem.message


def nothing(**_: Any) -> None: ...


def optimizer_of(make: Callable[[list[Any]], Any]) -> Any:
    def build(parameters: Any) -> Any:
        return make(list(parameters))

    return build


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return closure()


class Failing(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ValueError("no step")


class Unsaved(torch.optim.SGD):
    def state_dict(self) -> Any:
        return {**super().state_dict(), "lock": object()}


OPTIMIZERS: Mapping[str, tuple[Any, str]] = {
    "None": (lambda _: None, "optimizer `wrong` returned NoneType, not a torch Optimizer"),
    "a list": (lambda parameters: parameters, "optimizer `wrong` returned list, not a torch Optimizer"),
    "two of all": (
        lambda parameters: torch.optim.SGD(parameters[:2], lr=0.1),
        "parameters that it received, so they would never be trained: compressor.",
    ),
    "a stranger": (
        lambda parameters: torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(1))], lr=0.1),
        "optimizer `wrong` moves 1 parameter that it did not receive",
    ),
    "a closure": (
        lambda parameters: NeedsClosure(parameters, lr=0.1),
        "optimizer `wrong` needs `closure` at every `step`, but the engine calls `step()`",
    ),
    "LBFGS": (
        lambda parameters: torch.optim.LBFGS(parameters),
        "optimizer `wrong` needs `closure` at every `step`, but the engine calls `step()`",
    ),
    "failing": (
        lambda parameters: Failing(parameters, lr=0.1),
        "`step` of optimizer `wrong` failed: ValueError: no step",
    ),
}


@pytest.mark.parametrize("what", OPTIMIZERS)
def test_an_optimizer_that_would_not_train_everything_is_rejected(what: str, checked: Checker) -> None:
    make, words = OPTIMIZERS[what]
    registry = registry_with(PLUGINS, optimizers={"wrong": optimizer_of(make)})

    problem = the_problem(checked(VAE_GAN, f"{VAE}.optimizer={{type: wrong}}", using=registry))

    assert problem.message.startswith("in step `vae_gan`, ")
    assert words in problem.message


def test_an_optimizer_whose_state_no_checkpoint_can_have_is_rejected(checked: Checker) -> None:
    unsaved = optimizer_of(lambda parameters: Unsaved(parameters, lr=0.1))
    registry = registry_with(PLUGINS, optimizers={"wrong": unsaved})

    (problem,) = rejected(checked(VAE_GAN, f"{VAE}.optimizer={{type: wrong}}", using=registry))

    assert "the state of the optimizer of update `vae` contains `lock` of type object" in problem.message


class Late(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self) -> Any:
        if self.last_epoch > 0:
            raise ValueError("no rate")
        return [0.1]


def scheduler_of(make: Callable[[Any], Any]) -> Any:
    def build(optimizer: Any, total: int) -> Any:
        return make(optimizer)

    return build


def elsewhere(_: Any) -> Any:
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    return torch.optim.lr_scheduler.ConstantLR(other)


SCHEDULERS: Mapping[str, tuple[Any, str]] = {
    "None": (lambda _: None, "scheduler `wrong` returned NoneType, not a torch LRScheduler"),
    "elsewhere": (elsewhere, "scheduler `wrong` returned a scheduler of another optimizer"),
    "failing": (Late, "`step` of scheduler `wrong` failed: ValueError: no rate"),
}


@pytest.mark.parametrize("what", SCHEDULERS)
def test_a_scheduler_that_would_fail_or_do_nothing_is_rejected(what: str, checked: Checker) -> None:
    make, words = SCHEDULERS[what]
    registry = registry_with(PLUGINS, schedulers={"wrong": scheduler_of(make)})

    problem = the_problem(checked(VAE_GAN, f"{VAE}.scheduler={{type: wrong}}", using=registry))

    assert problem.message.startswith(f"in step `vae_gan`, {words}")


def balancer_of(weigh: Any) -> Any:
    def build(losses: Any) -> Any:
        return weigh

    return build


BALANCERS: Mapping[str, tuple[Any, str]] = {
    "None": (lambda _: None, "returned a value of type NoneType"),
    "a string": (lambda _: "l1", "returned a value of type str"),
    "nothing": (lambda _: {}, "returned no factor for any loss"),
    "an unknown label": (lambda _: {"l2": 1.0}, "returned a factor of `l2`, which is not a loss of the update"),
    "a string as factor": (lambda _: {"l1": "1"}, "returned a factor of `l1` of type str"),
    "true": (lambda _: {"l1": True}, "returned a factor of `l1` of type bool"),
    "a vector": (lambda _: {"l1": torch.ones(2)}, "returned a factor of `l1` that is a tensor of shape [2]"),
    "a complex factor": (lambda _: {"l1": torch.tensor(1j)}, "returned a factor of `l1` that is complex"),
    "failing": (lambda _: 1 / 0, "failed: ZeroDivisionError"),
}


@pytest.mark.parametrize("what", BALANCERS)
def test_a_weigher_that_does_not_return_factors_is_rejected(what: str, checked: Checker) -> None:
    weigh, words = BALANCERS[what]
    registry = registry_with(PLUGINS, balancers={"wrong": balancer_of(weigh)})

    problem = the_problem(checked(VAE_GAN, f"{VAE}.balancer={{type: wrong}}", using=registry))

    assert problem.message.startswith(f"in step `vae_gan`, balancer `wrong` of update `vae` {words}")


def half(noise: Tensor) -> Tensor:
    return noise[:, :, ::2]


def missing(noise: Tensor) -> Any:
    return None


@pytest.mark.parametrize(("sampler", "returned"), [(half, r"[2, 2, 2, 4]"), (missing, "a NoneType")])
def test_a_sampler_that_returns_no_sample_is_rejected(sampler: Any, returned: str, checked: Checker) -> None:
    registry = registry_with(PLUGINS, samplers={"wrong": sampler})

    problem = the_problem(checked(VAE_GAN + FLOW, "sampler={type: wrong}", using=registry))

    assert f"sampler `wrong` returned {returned} for noise of shape [2, 2, 4, 4]" in problem.message


def test_components_that_keep_something_are_left_as_they_were(checked: Checker) -> None:
    class Counting:
        """A loss that counts its calls."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, reconstruction: Tensor) -> Tensor:
            self.calls += 1
            return reconstruction.square().mean()

        def state_dict(self) -> dict[str, Any]:
            return {"calls": self.calls}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.calls = state["calls"]

    registry: Registry = registry_with(PLUGINS, losses={"counting": Counting})
    recipe = checked(VAE_GAN, f"{VAE}.losses.counting={{}}", using=registry)

    try_everything(recipe, CPU)

    assert recipe.steps[0].updates["vae"].losses["counting"].component.instance.calls == 0


def gray(reconstruction: Tensor) -> Tensor:
    """The reconstruction without its colors: [B, 1, H, W]."""
    return reconstruction.mean(dim=1, keepdim=True)


def subtracts(reconstruction: Tensor, image: Tensor) -> Tensor:
    return (reconstruction - image).square().mean()


def subtracts_in_the_other_order(reconstruction: Tensor, image: Tensor) -> Tensor:
    return torch.sub(image, reconstruction).abs().mean()


def repeats(reconstruction: Tensor, image: Tensor) -> Tensor:
    return (reconstruction.expand_as(image) - image).square().mean()


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch warns of two of them
@pytest.mark.parametrize("loss", [subtracts, subtracts_in_the_other_order, "l1", "mse", "frequency"])
def test_a_loss_that_compares_values_of_different_shapes_is_rejected(loss: Any, checked: Checker) -> None:
    own = {} if isinstance(loss, str) else {"compares": loss}
    registry = registry_with(PLUGINS, values={"gray": gray}, losses=own)
    name = loss if isinstance(loss, str) else "compares"
    setting = f"{VAE}.losses.other={{type: {name}, with: {{reconstruction: gray}}}}"

    problems = rejected(checked(VAE_GAN, setting, using=registry))

    assert len(problems) == 1
    assert problems[0].code == "wrong-shape"
    assert "loss `other` of update `vae` compares" in problems[0].message
    compared = set(re.findall(r"`\w+` \[[\d, ]+\]", problems[0].message))
    assert compared == {"`gray` [4, 1, 16, 16]", "`image` [4, 3, 16, 16]"}


def test_a_loss_may_repeat_a_value_on_purpose(checked: Checker) -> None:
    registry = registry_with(PLUGINS, values={"gray": gray}, losses={"repeats": repeats})

    try_everything(checked(VAE_GAN, f"{VAE}.losses.repeats={{with: {{reconstruction: gray}}}}", using=registry), CPU)


def test_a_metric_that_compares_values_of_different_shapes_is_rejected(checked: Checker) -> None:
    metrics = "{psnr: {with: {reconstruction: gray}}, l: {type: subtracts, with: {reconstruction: gray}}}"
    registry = registry_with(PLUGINS, values={"gray": gray}, metrics={"subtracts": subtracts})
    evaluate = f"steps.vae_gan.evaluate={{e: {{dataset: shapes, metrics: {metrics}}}}}"

    problems = rejected(checked(VAE_GAN, evaluate, using=registry))

    assert [problem.code for problem in problems] == ["wrong-shape", "wrong-shape"]
    assert problems[0].message.startswith("metric `psnr` of evaluation `e` in step `vae_gan` compares `gray`")


TRANSITIONS: Mapping[str, tuple[Any, str]] = {
    "true": (lambda epoch: True, "transition `wrong` returned a bool after epoch 1; return an Ending or None"),
    "a string": (lambda epoch: "done", "transition `wrong` returned a str after epoch 1; return an Ending or None"),
    "failing": (lambda epoch, history: 1 / 0, "transition `wrong` failed after epoch 1: ZeroDivisionError"),
}


@pytest.mark.parametrize("place", ["steps.vae_gan.until", f"{VAE}.start"])
@pytest.mark.parametrize("what", TRANSITIONS)
def test_a_transition_that_returns_no_ending_is_rejected(what: str, place: str, checked: Checker) -> None:
    transition, words = TRANSITIONS[what]
    registry = registry_with(PLUGINS, transitions={"wrong": transition})

    problem = the_problem(checked(VAE_GAN, f"{place}={{type: wrong}}", using=registry))

    assert problem.message.startswith(words)


class Unpackable:
    """A loss that keeps what no checkpoint can have."""

    def __call__(self, reconstruction: Tensor) -> Tensor:
        return reconstruction.square().mean()

    def state_dict(self) -> dict[str, Any]:
        return {"lock": object()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def test_a_component_whose_state_no_checkpoint_can_have_is_rejected(checked: Checker) -> None:
    registry = registry_with(PLUGINS, losses={"unpackable": Unpackable})

    problem = the_problem(checked(VAE_GAN, f"{VAE}.losses.unpackable={{}}", using=registry))

    assert problem.message == "the state of loss `unpackable` contains `lock` of type object"


def test_models_whose_builder_returns_one_module_for_both_are_rejected(checked: Checker) -> None:
    built: list[nn.Module] = []

    def one_for_all() -> nn.Module:
        from fluxflow_vae.models import ExpanderBuilder

        built.append(built[-1] if built else ExpanderBuilder(latent_channels=2, width=8)())
        return built[-1]

    registry = registry_with(PLUGINS, models={"shared": one_for_all})
    text = VAE_GAN.replace("{type: expander, latent_channels: 2, width: 8}", "shared\n  other: shared")

    problems = rejected(checked(text, using=registry))

    assert problems[0].message.startswith("models `expander` and `other` share `body.0.weight`")
    with pytest.raises(RecipeError) as without_numbers:
        build_models(checked(text, using=registry), CPU)
    assert "returned a module on the meta device, without weights" in str(without_numbers.value)
