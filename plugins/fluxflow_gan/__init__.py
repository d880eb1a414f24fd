"""Adversarial training: a patch discriminator, its logits, three pairs of losses, and the lazy R1 penalty."""

from __future__ import annotations

from fluxflow_registry import Loss, Model, Register, Value, hookimpl

from . import losses, models, values


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register the discriminator."""
    register("patch_discriminator", models.PatchDiscriminatorBuilder)


@hookimpl
def fluxflow_register_values(register: Register[Value]) -> None:
    """Register the logits of real and of reconstructed images, and the discriminator's other inputs."""
    register("instance_noise", values.InstanceNoise)
    register("real_logits", values.real_logits)
    register("fake_logits", values.fake_logits)
    register("context_vector", values.context_vector)
    register("latent_vector", values.latent_vector)
    register("real_projected_logits", values.real_projected_logits)
    register("fake_projected_logits", values.fake_projected_logits)


@hookimpl
def fluxflow_register_losses(register: Register[Loss]) -> None:
    """Register the two losses of each game, and the gradient penalty."""
    register("hinge_discriminator", losses.HingeDiscriminator)
    register("hinge_generator", losses.HingeGenerator)
    register("nonsaturating_discriminator", losses.NonsaturatingDiscriminator)
    register("nonsaturating_generator", losses.NonsaturatingGenerator)
    register("least_squares_discriminator", losses.LeastSquaresDiscriminator)
    register("least_squares_generator", losses.LeastSquaresGenerator)
    register("r1", losses.R1)
    register("projected_r1", losses.ProjectedR1)
