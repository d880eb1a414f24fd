"""A file that is no recipe: a plugin may know what it is, and the command that takes it."""

from __future__ import annotations

from argparse import Namespace

from fluxflow_registry.errors import FluxflowError, PluginError, RecipeError, one_line
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry


def refuse_foreign(arguments: Namespace, registry: Registry, trains: bool) -> None:
    """Raise RecipeError with what the first plugin that knows the file says of it; nothing where none does."""
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
            message = f"plugin `{plugin.name}` fails to look at a file that is no recipe: {one_line(error)}"
            raise PluginError(message, path) from error
        if problem is not None:
            raise RecipeError(problem)
