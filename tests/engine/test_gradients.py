"""Where gradients flow: what an update moves, what a cut keeps out, how often networks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.graph.losses import StageCut, Term, backward
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan

from ..small import FLOW, VAE_GAN
from .conftest import changed, weights

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]


def begin(step: LiveStep) -> None:
    """Put the first batch before the step's turns."""
    batch = next(iter(step.batches(0, 0)))
    step.values.draws.at(0, "test")
    step.values.begin(batch.fields, step_batch=0, **step.context)


def gradients(step: LiveStep, turn: int) -> dict[str, Tensor]:
    """The gradients that a turn leaves, by model and parameter, without stepping."""
    begin(step)
    for earlier in step.updates[:turn]:
        earlier.run(0, closing=False)
    for model in step.models.values():
        model.zero_grad()
    step.updates[turn].run(0, closing=False)
    return {
        f"{name}.{key}": p.grad.clone()
        for name, model in step.models.items()
        for key, p in model.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize(("turn", "trained"), [(0, {"discriminator"}), (1, {"compressor", "expander"})])
def test_an_update_moves_only_what_it_trains(checked: Checker, live: Maker, turn: int, trained: set[str]) -> None:
    step = live(checked(VAE_GAN, "steps.vae_gan.updates.vae.losses.kl.warmup=0"))
    begin(step)
    for earlier in step.updates[:turn]:
        earlier.run(0, closing=True)
    before = weights(step.models)

    step.updates[turn].run(0, closing=True)

    assert changed(before, step.models) == trained


def test_the_generators_turn_leaves_no_gradient_in_the_discriminator(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN))

    found = gradients(step, 1)

    assert {name.split(".")[0] for name in found} == {"compressor", "expander"}


def test_a_cut_keeps_the_adversarial_gradient_from_the_encoder_alone(checked: Checker, live: Maker) -> None:
    cut = gradients(live(checked(VAE_GAN)), 1)
    without = gradients(live(checked(VAE_GAN, "steps.vae_gan.updates.vae.losses.hinge_generator.weight=0.0")), 1)
    uncut = gradients(live(checked(VAE_GAN, "steps.vae_gan.updates.vae.losses.hinge_generator.detach=[]")), 1)

    encoder = [name for name in cut if name.startswith("compressor.")]
    decoder = [name for name in cut if name.startswith("expander.")]

    for name in encoder:
        assert torch.equal(cut[name], without[name]), name
    assert any(not torch.allclose(uncut[name], cut[name], rtol=1e-3) for name in encoder)
    assert any(not torch.allclose(cut[name], without[name], rtol=1e-3) for name in decoder)
    for name in decoder:
        torch.testing.assert_close(cut[name], uncut[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("detach", ["[latent]", "[]", "[posterior]", "[posterior, latent]"])
def test_encoder_and_decoder_run_once_a_batch_cut_or_not(checked: Checker, live: Maker, detach: str) -> None:
    step = live(checked(VAE_GAN, f"steps.vae_gan.updates.vae.losses.hinge_generator.detach={detach}"))
    counts = dict.fromkeys(step.models, 0)
    for name, model in step.models.items():
        model.register_forward_hook(_counter(counts, name))

    step.run(next(iter(step.batches(0, 0))), Position(step_batch=1))

    assert (counts["compressor"], counts["expander"]) == (1, 1)
    assert counts["discriminator"] == 3  # real and fake for itself, fake once more after its step


def _counter(counts: dict[str, int], name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        counts[name] += 1

    return hook


def test_two_cuts_at_different_depths_equal_separate_computations() -> None:
    torch.manual_seed(0)
    a, b, c = (nn.Linear(3, 3) for _ in range(3))
    x = torch.randn(4, 3)

    def parts(cut_u: bool, cut_v: bool) -> Tensor:
        u = a(x).tanh()
        v = b(u.detach() if cut_u else u).tanh()
        loss: Tensor = c(v.detach() if cut_v else v).tanh().square().sum()
        return loss

    expected = []
    for cuts in ((False, False), (True, False), (False, True)):
        for layer in (a, b, c):
            layer.zero_grad()
        parts(*cuts).backward()  # type: ignore[no-untyped-call]
        expected.append([p.grad.clone() if p.grad is not None else None for m in (a, b, c) for p in m.parameters()])
    wanted = [sum((g for g in grads if g is not None), torch.zeros(())) for grads in zip(*expected, strict=True)]

    for layer in (a, b, c):
        layer.zero_grad()
    u = a(x).tanh()
    u_leaf = u.detach().requires_grad_()
    v = b(u_leaf).tanh()
    v_leaf = v.detach().requires_grad_()
    loss = c(v_leaf).tanh().square().sum()
    terms = [Term(loss, frozenset(cuts), 2) for cuts in ((), ("u",), ("v",))]
    parameters = [p for m in (a, b, c) for p in m.parameters()]
    backward(terms, [StageCut("u", (u_leaf,), (u,), 1, 0), StageCut("v", (v_leaf,), (v,), 2, 1)], parameters)

    for parameter, want in zip(parameters, wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, want)


def test_a_lazy_loss_costs_nothing_on_the_batches_between(checked: Checker, live: Maker) -> None:
    step = live(checked(VAE_GAN))
    batches = iter(step.batches(0, 0))

    step.run(next(batches), Position(step_batch=0))
    on_time = step.metrics.logged()
    step.run(next(batches), Position(batch=1, step_batch=1))
    between = step.metrics.logged()

    assert "discriminator/r1" in on_time
    assert "discriminator/r1" not in between


def test_a_model_that_no_update_trains_is_frozen_in_that_step_and_free_in_the_next(
    checked: Checker, live: Maker
) -> None:
    recipe = checked(VAE_GAN + FLOW)
    first = live(recipe, 0)
    modes = {name: (model.training, next(model.parameters()).requires_grad) for name, model in first.models.items()}
    second = live(recipe, 1, first.models)

    assert modes["flow_processor"] == (False, False)
    assert modes["compressor"] == (True, True)
    assert not second.models["compressor"].training
    assert not any(p.requires_grad for p in second.models["compressor"].parameters())
    assert all(p.requires_grad for p in second.models["flow_processor"].parameters())
