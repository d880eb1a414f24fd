"""A file that was passed to the wrong one of two commands: what it is, and the command that takes it."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Literal

from fluxflow_registry import FluxflowError, Problem, RecipeError
from fluxflow_registry.commands import read_tree

Language = Literal["recipe", "FluxFlow"]

#: Keys at the top of a FluxFlow configuration that a recipe never has.
FLUXFLOW = frozenset({"training", "model", "data"})

#: Keys at the top of a recipe that a FluxFlow configuration never has.
RECIPE = frozenset({"recipe", "models", "datasets"})


def language_of(content: object) -> Language | None:
    """The language of a file; None if it could be either, or neither."""
    keys = set(content) if isinstance(content, Mapping) else set()
    ours, theirs = keys & RECIPE, keys & FLUXFLOW
    if bool(ours) == bool(theirs):
        return None
    return "recipe" if ours else "FluxFlow"


def reject_recipe(path: str, arguments: Namespace) -> None:
    """Raise RecipeError with the command that trains it if `fluxflow-train` was given a recipe."""
    try:
        language = language_of(read_tree(path).value)
    except FluxflowError:
        return
    if language == "recipe":
        mode = ["--validate"] if arguments.validate_pipeline else ["--explain"] if arguments.show_recipe else []
        command = shlex.join(["fluxflow-run", path, *mode, *_shared_flags(arguments)])
        message = f"`{path}` is a recipe, but `fluxflow-train` takes FluxFlow configurations"
        raise RecipeError(message, path, [("command", command)], code="wrong-command", subject=path)


def not_a_recipe(path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool) -> Problem | None:
    """The problem that `fluxflow-run` was given a FluxFlow configuration, with the command that takes it."""
    if language_of(content) != "FluxFlow":
        return None
    command = ["fluxflow-train", "--config", path]
    mode = [] if trains else ["--validate-pipeline"]
    notes = [
        ("command", shlex.join([*command, *mode, *_shared_flags(arguments)])),
        ("instead", f"{shlex.join([*command, '--show-recipe'])} > recipe.yaml   # the same as a recipe"),
    ]
    message = f"`{path}` is a FluxFlow configuration, not a recipe"
    return Problem(message, path, notes, code="wrong-command", subject=path)


def _shared_flags(arguments: Namespace) -> list[str]:
    """The flags on the command line that both commands have."""
    given = [part for value in arguments.set for part in ("--set", value)]
    given += [part for value in arguments.plugin for part in ("--plugin", value)]
    if arguments.output not in (None, "runs"):
        given += ["--output", arguments.output]
    given += ["--fresh"] if arguments.fresh else []
    given += ["--device", arguments.device] if arguments.device else []
    return given + (["--json"] if arguments.json else [])
