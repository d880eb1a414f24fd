"""A file that is not a recipe: a plugin may know what it is, and the command that takes it."""

from __future__ import annotations

from argparse import Namespace

from fluxflow_registry.errors import FluxflowError, PluginError, RecipeError, one_line
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry


def recognize_other_file(arguments: Namespace, registry: Registry, trains: bool) -> None:
    """Raise RecipeError with the problem that the first plugin that recognizes the file reports; else return."""
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
            message = f"plugin `{plugin.name}` failed to identify a file that is not a recipe: {one_line(error)}"
            raise PluginError(message, path, code="component-failed") from error
        if problem is not None:
            raise RecipeError(problem)
