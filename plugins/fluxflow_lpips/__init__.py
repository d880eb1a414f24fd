"""LPIPS: how far apart two pictures are to a network that was trained to see."""

from __future__ import annotations

from fluxflow_lpips.losses import Lpips
from fluxflow_registry import Loss, Metric, Register, hookimpl


@hookimpl
def fluxflow_register_losses(register: Register[Loss]) -> None:
    """Register the loss."""
    register("lpips", Lpips)


@hookimpl
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Register the same distance as a measure of held-out images: the less, the better."""
    register("lpips", Lpips)
