"""Check the recipe of a run again, which requires the plugins that the run was started with."""

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
    """Check the recipe in a run or a bundle; `command` is the one being run.

    Raises RecipeError: if plugin files of the run are not loaded, it names them and the command that loads them.
    """
    try:
        return check(recipe, registry)
    except RecipeError as error:
        loaded = {plugin.name for plugin in registry.plugins}
        missing = tuple(file for file in read_plugins(recipe.parent).files if Path(file).stem not in loaded)
        raise (RecipeError(_files_missing(recipe, missing, command, error)) if missing else _hinted(error)) from None


def _files_missing(recipe: Path, missing: tuple[str, ...], command: str, error: RecipeError) -> Problem:
    """Plugin files are missing; what is unknown without them is not reported as a problem of its own."""
    given = " ".join(f"`--plugin {file}`" for file in flags(missing)[1::2])
    them, is_not = ("it", "is not") if len(missing) == 1 else ("them", "are not")
    message = f"the run was started with {given}, which {is_not} loaded now: add {them} to this command"
    notes = [("command", f"{command} {shlex.join(flags(missing))}")]
    notes += [("cause", f"{file} no longer exists") for file in missing if not Path(file).is_file()]
    notes.append(("status", "\n".join(problem.message for problem in error.problems)))
    return Problem(message, str(recipe), notes, code="missing-plugin")


def _hinted(error: RecipeError) -> RecipeError:
    hint = ("hint", "if a plugin file provides it, load it with --plugin FILE")
    unknown = {"unknown-component", "unknown-name"}
    return RecipeError(
        [evolve(each, notes=(*each.notes, hint)) if each.code in unknown else each for each in error.problems]
    )
