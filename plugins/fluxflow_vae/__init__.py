"""The variational autoencoder: compressor and expander, their values, losses and metrics."""

from __future__ import annotations

from fluxflow_registry import Loss, Metric, Model, Register, Value, hookimpl

from . import losses, metrics, models, values


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register both halves of the autoencoder."""
    register("compressor", models.CompressorBuilder)
    register("expander", models.ExpanderBuilder)


@hookimpl
def fluxflow_register_values(register: Register[Value]) -> None:
    """Register the values between image and reconstruction."""
    register("posterior", values.posterior)
    register("latent", values.Latent)
    register("context", values.context)
    register("reconstruction", values.Reconstruction)
    register("reconstruction_mean", values.reconstruction_mean)
    register("reconstruction_without_context", values.reconstruction_without_context)
    register("conditioned_reconstruction", values.conditioned_reconstruction)
    register("prior_sample", values.prior_sample)


@hookimpl
def fluxflow_register_losses(register: Register[Loss]) -> None:
    """Register the losses of the reconstruction and of the posterior."""
    register("l1", losses.l1)
    register("mse", losses.Mse)
    register("frequency", losses.Frequency)
    register("ssim", losses.Ssim)
    register("multiscale", losses.Multiscale)
    register("spectral", losses.Spectral)
    register("color_statistics", losses.ColorStatistics)
    register("histogram", losses.Histogram)
    register("contrast", losses.Contrast)
    register("kl", losses.Kl)
    register("mmd", losses.Mmd)


@hookimpl
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Register the metrics of the reconstruction and of the posterior."""
    register("psnr", metrics.psnr)
    register("ssim", metrics.Ssim)
    register("sharpness", metrics.sharpness)
    register("kl", metrics.kl)
    register("elbo", metrics.Elbo)
