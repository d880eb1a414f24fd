"""Files that are not recipes: a plugin may recognize one, and know the command that takes it."""

from __future__ import annotations

from argparse import Namespace

from fluxflow_registry.errors import FluxflowError, PluginError, RecipeError, one_line
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry


def refuse_foreign(arguments: Namespace, registry: Registry, trains: bool) -> None:
    """Raise RecipeError with the problem of the first plugin that recognizes the file, if any does."""
    path = arguments.recipe
    try:
        root = read(path)
    except FluxflowError:
        return
    if not isinstance(root.value, dict):
        return
    content = root.plain()
    for plugin, recognize in registry.recognizers:
        try:
            problem = recognize(path=path, content=content, arguments=arguments, trains=trains)
        except Exception as error:
            message = f"plugin `{plugin.name}` failed to look at a file that is not a recipe: {one_line(error)}"
            raise PluginError(message, path, code="component-failed") from error
        if problem is not None:
            raise RecipeError(problem)
