"""FluxFlow's names for what is logged, and what they are called here."""

from __future__ import annotations

from .config import Step

#: The update and the loss of each of FluxFlow's metrics.
METRICS = {
    "vae_loss": "vae/frequency",
    "kl_loss": "vae/kl",
    "lpips_loss": "vae/lpips",
    "g_loss": "vae/hinge_generator",
    "d_loss": "discriminator/hinge_discriminator",
    "flow_loss": "flow/velocity",
}

#: Those that a transition may watch.
WATCHED = ("vae_loss", "kl_loss", "flow_loss", "g_loss", "d_loss")


def logged(step: Step) -> dict[str, str]:
    """Those of FluxFlow's metrics that a step logs, each with its name here."""
    settings, found = step.settings, []
    if settings.train_vae:
        found += ["vae_loss", *(["lpips_loss"] if settings.use_lpips else [])]
    if step.autoencoder and "compressor" not in step.frozen_models:
        found.append("kl_loss")
    if settings.gan_training:
        found += ["d_loss", "g_loss"]
    if step.flow:
        found.append("flow_loss")
    return {name: METRICS[name] for name in found}
