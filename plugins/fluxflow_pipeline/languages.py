"""A file that was given to the wrong one of two commands: which it is, and the command that takes it."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Literal

from fluxflow_registry.errors import FluxflowError, Problem, RecipeError
from fluxflow_registry.recipe.reader import read

Language = Literal["recipe", "FluxFlow"]

#: What stands at the top of a configuration of FluxFlow, and never in a recipe.
FLUXFLOW = frozenset({"training", "model", "data"})

#: What stands at the top of a recipe, and never in a configuration of FluxFlow.
RECIPE = frozenset({"recipe", "models", "datasets"})


def language_of(content: object) -> Language | None:
    """The language in which a file is written; None where it could be either, or neither."""
    keys = set(content) if isinstance(content, Mapping) else set()
    ours, theirs = keys & RECIPE, keys & FLUXFLOW
    if bool(ours) == bool(theirs):
        return None
    return "recipe" if ours else "FluxFlow"


def refuse_recipe(path: str, arguments: Namespace) -> None:
    """Raise RecipeError with the command that trains it, where `fluxflow-train` was given a recipe."""
    try:
        language = language_of(read(path).value)
    except FluxflowError:
        return
    if language == "recipe":
        mode = ["--validate"] if arguments.validate_pipeline else ["--explain"] if arguments.show_recipe else []
        notes = (("command", shlex.join(["fluxflow-run", path, *mode, *_shared(arguments)])),)
        raise RecipeError(Problem("this is a recipe, and `fluxflow-train` takes FluxFlow's own files", path, notes))


def configuration(path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool) -> Problem | None:
    """The command that takes it, where `fluxflow-run` was given FluxFlow's own file; one that trains only if asked."""
    if language_of(content) != "FluxFlow":
        return None
    mode = [] if trains else ["--validate-pipeline"]
    command = ["fluxflow-train", "--config", path]
    notes = (
        ("command", shlex.join([*command, *mode, *_shared(arguments)])),
        ("or", f"{shlex.join([*command, '--show-recipe'])} > recipe.yaml   # the recipe that says the same"),
    )
    return Problem("this is a configuration of FluxFlow, and no recipe", path, notes)


def _shared(arguments: Namespace) -> list[str]:
    """The flags that were given and that both commands have."""
    given: list[str] = []
    for flag in ("set", "plugin"):
        given += [part for value in getattr(arguments, flag) for part in (f"--{flag}", value)]
    if arguments.output not in (None, "runs"):
        given += ["--output", arguments.output]
    given += ["--fresh"] if arguments.fresh else []
    given += ["--device", arguments.device] if arguments.device else []
    return given + (["--json"] if arguments.json else [])
