"""torch's own optimizers and learning-rate schedulers under their own names, and Lion."""

from __future__ import annotations

from fluxflow_registry import Optimizer, Register, Scheduler, hookimpl
from fluxflow_torch import optimizers, schedulers


@hookimpl
def fluxflow_register_optimizers(register: Register[Optimizer]) -> None:
    """Register optimizers by torch's class names."""
    for optimizer in (
        optimizers.AdamW,
        optimizers.Adam,
        optimizers.SGD,
        optimizers.RMSprop,
        optimizers.Lion,
        optimizers.Muon,
    ):
        register(optimizer.__name__, optimizer)


@hookimpl
def fluxflow_register_schedulers(register: Register[Scheduler]) -> None:
    """Register schedulers by torch's class names."""
    for scheduler in (
        schedulers.CosineAnnealingLR,
        schedulers.StepLR,
        schedulers.ExponentialLR,
        schedulers.ReduceLROnPlateau,
        schedulers.LinearLR,
        schedulers.ConstantLR,
        schedulers.OneCycleLR,
    ):
        register(scheduler.__name__, scheduler)
