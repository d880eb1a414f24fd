"""Adversarial training: instance noise, the projection on a context, and steps without a reconstruction loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_gan.models import PatchDiscriminatorBuilder
from fluxflow_gan.values import InstanceNoise, context_vector, fake_logits, latent_vector, real_logits
from fluxflow_lpips import network
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry
from fluxflow_text.networks import TextEmbedding

from ..engine.conftest import start
from ..small import PLUGINS, VAE_GAN, sized

Prove = Callable[..., RecipePlan]
STEP = "steps.vae_gan"
VAE = f"{STEP}.updates.vae"
GENERATOR = f"{VAE}.losses.hinge_generator"


def live(checked: RecipePlan) -> LiveStep:
    (source,) = open_sources(checked).values()
    device = torch.device("cpu")
    return LiveStep(sized(checked.steps[0], source), source, build_models(checked, device), 0, device)


def train(step: LiveStep, *batches: int) -> list[dict[str, list[Any]]]:
    """For each batch of the step everything that was computed, by name and in order."""
    seen: list[dict[str, list[Any]]] = []
    for number in batches:
        seen.append({})
        step.values.watch = lambda _, name, value: seen[-1].setdefault(name, []).append(value)
        step.run(next(iter(step.batches(0, 0))), Position(step_batch=number))
    return seen


@pytest.mark.parametrize(("batch", "expected"), [(0, 0.02), (1, 0.01), (3, 0.0025)])
def test_the_noise_decays_from_batch_to_batch(batch: int, expected: float) -> None:
    noise = InstanceNoise(std=0.02, decay=0.5)(batch)

    assert noise.ndim == 0
    assert float(noise) == pytest.approx(expected)
    assert float(InstanceNoise()(1)) == pytest.approx(0.01 * 0.9999)


def test_one_entry_sets_the_noise_of_real_and_fake_in_both_updates(prove: Prove) -> None:
    """Observed through a discriminator that returns its input."""
    bare = f"{STEP}.updates.discriminator.losses={{hinge_discriminator: {{}}}}"
    step = live(prove(VAE_GAN, bare, "values={instance_noise: {std: 0.5, decay: 0.5}}"))
    weight = next(step.models["discriminator"].parameters())
    step.models["discriminator"].forward = lambda image: image + 0 * weight.sum()
    image = next(iter(step.batches(0, 0))).fields["image"]

    first, second = train(step, 0, 1)

    for seen, std in ((first, 0.5), (second, 0.25)):
        (real,), (reconstruction,), fakes = seen["real_logits"], seen["reconstruction"], seen["fake_logits"]
        noises = [(real - image).detach(), *((fake - reconstruction).detach() for fake in fakes)]
        assert [float(noise.std()) for noise in noises] == pytest.approx([std] * 3, rel=0.05)
        assert abs(float(torch.corrcoef(torch.stack([noises[0].flatten(), noises[1].flatten()]))[0, 1])) < 0.1
    assert not torch.equal((first["real_logits"][0] - image).sign(), (second["real_logits"][0] - image).sign())


def test_noise_changes_the_logits_and_a_std_of_zero_does_not() -> None:
    discriminator = PatchDiscriminatorBuilder(width=4)()
    image = torch.rand(2, 3, 16, 16)

    for logits in (real_logits, fake_logits):
        plain, noisy = (logits(image, discriminator, torch.tensor(std), torch.Generator()) for std in (0.0, 0.1))
        assert torch.equal(plain, discriminator(image))
        assert not torch.allclose(noisy, plain, atol=1e-3)


def test_noisy_logits_carry_gradient_and_are_the_same_in_every_run(prove: Prove) -> None:
    once, again = (train(live(prove(VAE_GAN)), 3)[0] for _ in range(2))

    assert torch.equal(once["fake_logits"][0], again["fake_logits"][0])
    assert once["fake_logits"][-1].requires_grad


PROJECTED = VAE_GAN.replace("width: 8}\n  text", "width: 8, context_width: 16}\n  text")
PROJECTED = PROJECTED.replace(
    "hinge_discriminator: {}, r1: {every: 2}",
    "hinge_discriminator: {with: {real_logits: real_projected_logits, fake_logits: fake_projected_logits}}, "
    "projected_r1: {every: 2}",
)
PROJECTED = PROJECTED.replace("detach: [latent]", "detach: [latent], with: {fake_logits: fake_projected_logits}")


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_context_affects_every_logit(spectral_norm: bool) -> None:
    discriminator = PatchDiscriminatorBuilder(width=4, context_width=6, spectral_norm=spectral_norm)().eval()
    image, contexts = torch.randn(2, 3, 16, 16), torch.randn(2, 2, 6)

    bare, one, other = discriminator(image), discriminator(image, contexts[0]), discriminator(image, contexts[1])

    assert one.shape == bare.shape == (2, 1, 4, 4)
    assert ((one - other).abs() > 1e-6).all()
    assert torch.equal(discriminator(image, 0 * contexts[0]), bare)


def test_the_projection_is_linear_in_the_context_and_its_gradient_reaches_the_weights() -> None:
    discriminator: Any = PatchDiscriminatorBuilder(width=4, context_width=6)()
    image, context = torch.randn(2, 3, 16, 16), torch.randn(2, 6)

    bare, once, twice = discriminator(image), discriminator(image, context), discriminator(image, 2 * context)
    once.square().mean().backward()

    torch.testing.assert_close(twice - bare, 2 * (once - bare))
    assert discriminator.projection.weight.grad.abs().sum() > 0


def test_the_mean_of_the_latent_is_a_context_without_captions(prove: Prove) -> None:
    latent = torch.arange(12.0).view(1, 3, 2, 2)
    projected = ("real_projected_logits", "fake_projected_logits")
    recipe = PROJECTED.replace(
        "projected_r1: {every: 2}", "projected_r1: {every: 2, with: {context_vector: latent_vector}}"
    )
    settings = [f"values.{name}.with={{context_vector: latent_vector}}" for name in projected]

    plan = prove(recipe, *settings, "models.discriminator.context_width=2")
    seen = train(live(plan), 2)[0]

    assert torch.equal(latent_vector(latent), torch.tensor([[1.5, 5.5, 9.5]]))
    assert "context_vector" not in seen
    assert all(bool(logits.isfinite().all()) for logits in seen["real_projected_logits"])


def test_a_context_for_a_discriminator_without_context_width_is_rejected_before_training(prove: Prove) -> None:
    with pytest.raises(RecipeError, match="the discriminator takes no context: set its `context_width`"):
        prove_shapes(prove(PROJECTED, "models.discriminator.context_width=null"))


def test_the_context_is_the_mean_of_the_tokens_without_padding() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[5.0, 5.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])

    found = context_vector(TextEmbedding(tokens, mask))

    assert found.tolist() == [[2.0, 4.0], [5.0, 5.0]]


@pytest.mark.parametrize("trained", [False, True])
def test_the_update_of_the_discriminator_changes_the_text_encoder_only_if_it_trains_it(
    prove: Prove, trained: bool
) -> None:
    trains = "[discriminator, text_encoder]" if trained else "[discriminator]"
    step = live(prove(PROJECTED, f"{STEP}.updates.discriminator.trains={trains}"))
    before = {key: value.clone() for key, value in step.models["text_encoder"].state_dict().items()}
    projection = step.models["discriminator"].projection.weight.clone()  # type: ignore[union-attr, operator]

    train(step, 0)

    after = step.models["text_encoder"].state_dict()
    assert any(not torch.equal(value, after[key]) for key, value in before.items()) == trained
    assert not torch.equal(projection, step.models["discriminator"].projection.weight)  # type: ignore[union-attr, arg-type]


def test_the_update_of_the_generator_leaves_no_gradient_in_discriminator_or_text_encoder(prove: Prove) -> None:
    step = live(prove(PROJECTED, f"{STEP}.accumulate=2", f"{STEP}.updates.discriminator.start=99"))

    train(step, 0)

    reached = {name for name, model in step.models.items() for p in model.parameters() if p.grad is not None}
    assert reached == {"compressor", "expander"}


#: Only the adversarial loss and the prior.
ALONE = f"{VAE}.losses={{hinge_generator: {{}}, kl: {{weight: 0.0}}}}"


@pytest.fixture(scope="module")
def everything() -> Registry:
    """The plugins with the perceptual loss, so that it could be built."""
    return load([*PLUGINS, "lpips"])


def test_a_step_without_a_reconstruction_loss_neither_computes_nor_builds_one(
    prove: Prove, everything: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    built: list[str] = []
    original = network.Distance.__init__

    def counted(*arguments: Any) -> None:
        built.append("lpips")
        original(*arguments)

    monkeypatch.setattr(network.Distance, "__init__", counted)
    network.build_network.cache_clear()  # other tests may have built it
    step = live(prove(VAE_GAN, ALONE, using=everything))

    seen = train(step, 0, 1)
    start(prove(VAE_GAN, ALONE, using=everything), tmp_path)
    before = list(built)
    perceptual = [f"{VAE}.losses.lpips={{net: squeeze, random: true}}", "datasets.shapes.image_size=32"]
    train(live(prove(VAE_GAN, *perceptual, using=everything)), 0)

    assert (before, built) == ([], ["lpips"])
    assert set().union(*seen) == {
        *("posterior", "latent", "reconstruction", "instance_noise", "real_logits", "fake_logits"),
        *("discriminator/hinge_discriminator", "discriminator/r1", "discriminator"),
        *("vae/hinge_generator", "vae/kl", "vae"),
    }


@pytest.mark.parametrize(("detach", "learns"), [("[]", True), ("[latent]", False)])
def test_the_encoder_learns_from_the_adversarial_loss_unless_the_latent_is_detached(
    prove: Prove, detach: str, learns: bool
) -> None:
    step = live(prove(VAE_GAN, ALONE, f"{GENERATOR}.detach={detach}"))
    encoder: nn.Module = step.models["compressor"]
    before = [p.detach().clone() for p in encoder.parameters()]

    train(step, 0)

    moved = [float((p.detach() - old).abs().max()) for p, old in zip(encoder.parameters(), before, strict=True)]
    assert (max(moved) > 1e-4) == learns


def test_the_adversarial_loss_alone_makes_reconstructions_look_more_real(prove: Prove) -> None:
    """Against a discriminator that does not learn the logits of reconstructions rise."""
    still = f"{STEP}.updates.discriminator.optimizer.lr=1.0e-12"
    step = live(prove(VAE_GAN, ALONE, still, f"{VAE}.scheduler=null"))

    losses: list[Tensor] = [seen["vae/hinge_generator"][0] for seen in train(step, *range(12))]

    assert float(losses[-1].detach()) < float(losses[0].detach()) - 0.05
