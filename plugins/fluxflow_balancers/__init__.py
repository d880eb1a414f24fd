"""Balancers: how the weights of one update's losses adapt."""

from __future__ import annotations

from fluxflow_registry import Balancer, Register, hookimpl

from .balancers import GradientNorm, Inverse, fixed


@hookimpl
def fluxflow_register_balancers(register: Register[Balancer]) -> None:
    """Register the balancers."""
    register("fixed", fixed)
    register("inverse", Inverse)
    register("gradient_norm", GradientNorm)
