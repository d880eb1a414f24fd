"""FluxFlow's own configuration files: translated into recipes, by the command `fluxflow-train`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fluxflow_registry import Register, hookimpl
from fluxflow_registry.errors import Problem

from .banner import Banner


@hookimpl
def fluxflow_register_observers(register: Register) -> None:
    """Offer what announces the steps as FluxFlow does."""
    register("pipeline", Banner)


@hookimpl
def fluxflow_recognize_file(
    path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool
) -> Problem | None:
    """Say what FluxFlow's own files are, and which command takes them."""
    from .languages import configuration

    return configuration(path, content, arguments, trains)
