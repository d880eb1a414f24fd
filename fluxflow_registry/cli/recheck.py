"""The recipe of a run checked once more, with the plugins that the run was started with asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

from attrs import evolve

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.run.plugins_at_start import flags, read_plugins
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry


def check_again(recipe: Path, registry: Registry, command: str) -> RecipePlan:
    """Check the recipe that lies in a run or a bundle; `command` is the one that was given.

    Raises RecipeError. Where files are not loaded with which the run was started, it says which, and the
    command that loads them.
    """
    try:
        return check(recipe, registry)
    except RecipeError as error:
        loaded = {plugin.name for plugin in registry.plugins}
        missing = tuple(file for file in read_plugins(recipe.parent).files if Path(file).stem not in loaded)
        raise (RecipeError(_asked(recipe, missing, command, error)) if missing else _hinted(error)) from None


def _asked(recipe: Path, missing: tuple[str, ...], command: str, error: RecipeError) -> Problem:
    """That files are missing; what is unknown without them is no problem of its own."""
    given = " ".join(f"`--plugin {file}`" for file in flags(missing)[1::2])
    them, is_not = ("it", "is not") if len(missing) == 1 else ("them", "are not")
    message = f"the run was started with {given}, which {is_not} loaded now: give {them} here too"
    notes = [("command", f"{command} {shlex.join(flags(missing))}")]
    notes += [("BUT", f"there is no file {file} any more") for file in missing if not Path(file).is_file()]
    notes.append((f"without {them}", "\n".join(problem.message for problem in error.problems)))
    return Problem(message, str(recipe), tuple(notes))


def _hinted(error: RecipeError) -> RecipeError:
    hint = ("load it with", "--plugin FILE, where it comes from a file")
    return RecipeError(
        [
            evolve(problem, notes=(*problem.notes, hint)) if problem.message.startswith("unknown ") else problem
            for problem in error.problems
        ]
    )
