"""LPIPS: the perceptual distance of two images, as a loss and as a metric."""

from __future__ import annotations

from fluxflow_registry import Loss, Metric, Register, hookimpl

from .losses import Lpips


@hookimpl
def fluxflow_register_losses(register: Register[Loss]) -> None:
    """Register the distance as a loss."""
    register("lpips", Lpips)


@hookimpl
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Register the distance as a metric: lower is better."""
    register("lpips", Lpips)
