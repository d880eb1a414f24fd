"""torch's own optimizers and learning-rate schedulers under their own names, and Lion."""

from __future__ import annotations

from fluxflow_registry import Optimizer, Register, Scheduler, hookimpl

from . import optimizers, schedulers


@hookimpl
def fluxflow_register_optimizers(register: Register[Optimizer]) -> None:
    """Register optimizers by torch's class names."""
    register("AdamW", optimizers.AdamWBuilder)
    register("Adam", optimizers.AdamBuilder)
    register("SGD", optimizers.SGDBuilder)
    register("RMSprop", optimizers.RMSpropBuilder)
    register("Lion", optimizers.LionBuilder)
    register("Muon", optimizers.MuonBuilder)


@hookimpl
def fluxflow_register_schedulers(register: Register[Scheduler]) -> None:
    """Register schedulers by torch's class names."""
    register("CosineAnnealingLR", schedulers.CosineAnnealingLRBuilder)
    register("StepLR", schedulers.StepLRBuilder)
    register("ExponentialLR", schedulers.ExponentialLRBuilder)
    register("ReduceLROnPlateau", schedulers.ReduceLROnPlateauBuilder)
    register("LinearLR", schedulers.LinearLRBuilder)
    register("ConstantLR", schedulers.ConstantLRBuilder)
    register("OneCycleLR", schedulers.OneCycleLRBuilder)
