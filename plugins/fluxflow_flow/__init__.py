"""The rectified flow: from noise to latents along straight lines, and the pictures drawn with it."""

from __future__ import annotations

from fluxflow_flow import generation, losses, models, samplers, values
from fluxflow_registry import Register, hookimpl


@hookimpl
def fluxflow_register_models(register: Register) -> None:
    """Register the transformer that learns the velocity."""
    register("flow_transformer", models.FlowTransformerBuilder)


@hookimpl
def fluxflow_register_values(register: Register) -> None:
    """Register the values of a rectified flow and the pictures that it draws."""
    register("clean_latent", values.clean_latent)
    register("noise", values.noise)
    register("time", values.Time)
    register("noisy_latent", values.noisy_latent)
    register("velocity_target", values.velocity_target)
    register("velocity", values.velocity)
    register("generated_image", generation.GeneratedImage)


@hookimpl
def fluxflow_register_losses(register: Register) -> None:
    """Register the flow's loss."""
    register("velocity", losses.velocity)


@hookimpl
def fluxflow_register_samplers(register: Register) -> None:
    """Register the solvers."""
    register("euler", samplers.Euler)
    register("heun", samplers.Heun)
