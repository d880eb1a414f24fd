"""The plan of the default recipe's GAN step: what is computed once, what again, and where gradients flow."""

from __future__ import annotations

import pytest

from fluxflow_registry.check.checker import check
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import UpdatePlan
from fluxflow_registry.registry.registry import Registry

from ..recipes import DEFAULT


@pytest.fixture(scope="module")
def checked(everything: Registry) -> RecipePlan:
    return check(DEFAULT, everything)


@pytest.fixture
def gan(checked: RecipePlan) -> StepPlan:
    return checked.step("vae_gan")


@pytest.fixture
def discriminator(gan: StepPlan) -> UpdatePlan:
    return gan.updates["discriminator"]


@pytest.fixture
def vae(gan: StepPlan) -> UpdatePlan:
    return gan.updates["vae"]


def test_the_discriminator_s_update_moves_the_discriminator_alone(gan: StepPlan, discriminator: UpdatePlan) -> None:
    assert discriminator.trains == ("discriminator",)
    assert {loss.label: loss.reaches for loss in discriminator.losses.values()} == {
        "hinge_discriminator": {"discriminator"},
        "r1": {"discriminator"},
    }
    for name in ("posterior", "latent", "reconstruction"):
        assert discriminator.gradient(gan.values[name]) == set()
    for name in ("real_logits", "fake_logits"):
        assert discriminator.gradient(gan.values[name]) == {"discriminator"}


def test_the_autoencoder_runs_once_for_both_updates(discriminator: UpdatePlan, vae: UpdatePlan) -> None:
    assert discriminator.reused == set()
    assert {"posterior", "latent", "reconstruction"} <= vae.reused
    assert "fake_logits" not in vae.reused


def test_what_the_discriminator_s_update_computes_keeps_its_graph_for_the_next(discriminator: UpdatePlan) -> None:
    assert discriminator.carries["posterior"] == {"compressor"}
    assert discriminator.carries["latent"] == {"compressor"}
    assert discriminator.carries["reconstruction"] == {"compressor", "expander"}
    assert discriminator.carries["fake_logits"] == {"discriminator"}


def test_only_the_logits_are_stale_once_the_discriminator_has_stepped(discriminator: UpdatePlan) -> None:
    assert discriminator.stale == {"real_logits", "fake_logits"}


def test_all_but_the_real_logits_are_stale_once_the_autoencoder_has_stepped(vae: UpdatePlan) -> None:
    assert vae.stale == {"posterior", "latent", "reconstruction", "fake_logits"}


def test_the_generator_s_loss_flows_through_the_discriminator_and_stops_at_the_cut(vae: UpdatePlan) -> None:
    reaches = {loss.label: loss.reaches for loss in vae.losses.values()}

    assert reaches["hinge_generator"] == {"expander"}
    assert reaches["mse"] == {"compressor", "expander"}
    assert reaches["kl"] == {"compressor"}


def test_without_the_cut_it_reaches_the_compressor_too(everything: Registry) -> None:
    whole = check(DEFAULT, everything, ["steps.vae_gan.updates.vae.losses.hinge_generator.detach=[]"])

    plan = whole.step("vae_gan")

    reaches = {loss.label: loss.reaches for loss in plan.updates["vae"].losses.values()}
    assert reaches["hinge_generator"] == {"compressor", "expander"}
    assert plan.detached == set()


def test_the_graph_is_split_at_the_cut_and_nowhere_else(gan: StepPlan) -> None:
    assert gan.detached == {"latent"}


def test_a_flow_step_leaves_the_autoencoder_alone(checked: RecipePlan) -> None:
    plan = checked.step("flow")
    (update,) = plan.updates.values()

    assert plan.frozen == {"compressor"}
    for name in ("posterior", "clean_latent", "noise", "time", "path", "noisy_latent", "prediction_target", "prompt"):
        assert update.carries[name] == set()
    assert update.carries["prediction"] == {"flow_processor", "text_encoder"}
    assert "reconstruction" not in plan.values


def test_an_evaluation_computes_only_what_its_metrics_ask_for(checked: RecipePlan) -> None:
    evaluation = checked.step("vae_warmup").evaluations["autoencoder"]

    assert set(evaluation.values) == {
        *("image", "compressor", "expander", "generator"),
        *("posterior", "latent", "reconstruction"),
    }


def test_everything_that_requests_a_value_is_known(gan: StepPlan, vae: UpdatePlan) -> None:
    assert vae.requested_by("posterior", gan.values) == ["latent", "loss kl"]
    assert vae.requested_by("fake_logits", gan.values) == ["loss hinge_generator"]
