"""FluxFlow's own configuration files: translated into recipes, by the command `fluxflow-train`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fluxflow_registry import Observer, Problem, Register, hookimpl

from .announcements import Pipeline


@hookimpl
def fluxflow_register_observers(register: Register[Observer]) -> None:
    """Register the observer that announces steps as FluxFlow does."""
    register("pipeline", Pipeline)


@hookimpl
def fluxflow_recognize_file(
    path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool
) -> Problem | None:
    """Recognize FluxFlow's own files, and name the command that takes them."""
    from .other_files import not_a_recipe

    return not_a_recipe(path, content, arguments, trains)
