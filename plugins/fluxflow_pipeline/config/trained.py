"""What a step trains and logs, by its modes."""

from __future__ import annotations

from .config import Step

#: The loss that each of FluxFlow's metrics is, by its update and its name.
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


def trains_autoencoder(step: Step) -> bool:
    """Whether compressor or expander are trained."""
    return step.settings.train_vae or step.settings.gan_training


def trains_flow(step: Step) -> bool:
    """Whether a flow processor is trained."""
    return step.settings.train_diff or step.settings.train_diff_full


def aligns(step: Step) -> bool:
    """Whether images and captions are aligned."""
    return trains_flow(step) and step.settings.lambda_align > 0


def uses_spade(step: Step) -> bool:
    """Whether the expander is conditioned on the spatial context."""
    return step.settings.train_spade and trains_autoencoder(step)


def unfrozen(step: Step, *models: str) -> tuple[str, ...]:
    """Those of the models that are not frozen."""
    return tuple(model for model in models if model not in step.frozen_models)


def trained_models(step: Step) -> dict[str, tuple[str, ...]]:
    """For each optimizer, the models that it trains."""
    autoencoder, flow = trains_autoencoder(step), trains_flow(step)
    return {
        "vae": unfrozen(step, "compressor", "expander") if autoencoder else (),
        "discriminator": unfrozen(step, "discriminator") if step.settings.gan_training else (),
        "flow": unfrozen(step, "flow_processor") if flow else (),
        "text_encoder": unfrozen(step, "text_encoder") if flow else (),
    }


def logged_metrics(step: Step) -> dict[str, str]:
    """Those of FluxFlow's metrics that a step logs, each with its name in the recipe."""
    logged = {
        "vae_loss": step.settings.train_vae,
        "lpips_loss": step.settings.train_vae and step.settings.use_lpips,
        "kl_loss": trains_autoencoder(step) and "compressor" not in step.frozen_models,
        "d_loss": step.settings.gan_training,
        "g_loss": step.settings.gan_training,
        "flow_loss": trains_flow(step),
    }
    return {name: METRICS[name] for name, is_logged in logged.items() if is_logged}
