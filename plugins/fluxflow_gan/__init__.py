"""The adversary: a patch discriminator, its logits, hinge losses, and the lazy R1 penalty."""

from __future__ import annotations

from fluxflow_gan import losses, models, values
from fluxflow_registry import Register, hookimpl


@hookimpl
def fluxflow_register_models(register: Register) -> None:
    """Register the discriminator."""
    register("patch_discriminator", models.PatchDiscriminatorBuilder)


@hookimpl
def fluxflow_register_values(register: Register) -> None:
    """Register what the discriminator says of real and of reconstructed images."""
    register("real_logits", values.real_logits)
    register("fake_logits", values.fake_logits)


@hookimpl
def fluxflow_register_losses(register: Register) -> None:
    """Register both sides of the game and the gradient penalty."""
    register("hinge_discriminator", losses.hinge_discriminator)
    register("hinge_generator", losses.HingeGenerator)
    register("r1", losses.R1)
