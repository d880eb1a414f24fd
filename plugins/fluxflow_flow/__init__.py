"""Flow and diffusion: paths from latents to noise, networks and samplers that reverse them, generated images."""

from __future__ import annotations

from fluxflow_registry import Loss, Model, Register, Sampler, Value, hookimpl

from . import generation, losses, models, samplers, values


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register the networks over latents, and the projection from latents to text embeddings."""
    register("flow_transformer", models.FlowTransformerBuilder)
    register("unet", models.UnetBuilder)
    register("projection", models.ProjectionBuilder)


@hookimpl
def fluxflow_register_values(register: Register[Value]) -> None:
    """Register the values of a path, and the images that are generated along it."""
    register("path", values.PathBuilder)
    register("clean_latent", values.clean_latent)
    register("noise", values.noise)
    register("time", values.Time)
    register("noisy_latent", values.noisy_latent)
    register("prediction", values.prediction)
    register("prediction_target", values.prediction_target)
    register("predicted_latent", values.predicted_latent)
    register("velocity", values.velocity)
    register("velocity_target", values.velocity_target)
    register("generated_image", generation.GeneratedImage)


@hookimpl
def fluxflow_register_losses(register: Register[Loss]) -> None:
    """Register a loss for each kind of prediction, and the alignment with the text."""
    register("velocity", losses.Velocity)
    register("epsilon", losses.Epsilon)
    register("v_prediction", losses.VPrediction)
    register("alignment", losses.alignment)


@hookimpl
def fluxflow_register_samplers(register: Register[Sampler]) -> None:
    """Register the solvers."""
    register("euler", samplers.Euler)
    register("heun", samplers.Heun)
    register("ddim", samplers.Ddim)
    register("dpmpp_2m", samplers.DpmPp2m)
