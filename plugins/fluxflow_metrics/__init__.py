"""Measures of how well an autoencoder gives its images back, and of what its latents cost."""

from __future__ import annotations

from fluxflow_metrics.bounds import Elbo, kl
from fluxflow_metrics.images import Ssim, psnr, sharpness
from fluxflow_registry import Metric, Register, hookimpl

__all__ = ["Elbo", "Ssim", "kl", "psnr", "sharpness"]


@hookimpl
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Register the measures."""
    register("psnr", psnr)
    register("ssim", Ssim)
    register("sharpness", sharpness)
    register("kl", kl)
    register("elbo", Elbo)
