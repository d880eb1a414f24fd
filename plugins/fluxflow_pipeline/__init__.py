"""FluxFlow's own configuration files: translated into recipes, by the command `fluxflow-train`."""

from __future__ import annotations

from fluxflow_registry import Register, hookimpl

from .banner import Banner


@hookimpl
def fluxflow_register_observers(register: Register) -> None:
    """Offer what announces the steps as FluxFlow does."""
    register("pipeline", Banner)
