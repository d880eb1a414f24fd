"""How the weights of one update's losses adapt."""

from __future__ import annotations

from fluxflow_balancers.gradient_norm import GradientNorm
from fluxflow_balancers.inverse import Inverse, fixed
from fluxflow_registry import Balancer, Register, hookimpl


@hookimpl
def fluxflow_register_balancers(register: Register[Balancer]) -> None:
    """Register the balancers."""
    register("fixed", fixed)
    register("inverse", Inverse)
    register("gradient_norm", GradientNorm)
