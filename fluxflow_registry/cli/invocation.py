"""One call of `fluxflow-run`: what every command of it gets."""

from __future__ import annotations

from argparse import Namespace
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import frozen

from fluxflow_registry.cli.signals import Signals
from fluxflow_registry.errors import FluxflowError, PluginError, Problem, RecipeError, one_line
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry

if TYPE_CHECKING:
    from fluxflow_registry.plan.steps import RecipePlan


@frozen(eq=False)
class Invocation:
    """The arguments, the plugins of this environment and, for training, the signals that stop it."""

    arguments: Namespace
    registry: Registry
    signals: Signals | None = None

    @cached_property
    def plan(self) -> RecipePlan:
        """The plan of the recipe; raises RecipeError where there is no recipe, or with every problem of it."""
        from fluxflow_registry.check.checker import check

        if self.arguments.recipe is None:
            message = "a recipe is required, as in `fluxflow-run recipes/vae_gan_flow.yaml`"
            help_ = ("command", "fluxflow-run --help")
            raise RecipeError(Problem(message, None, (help_,), code="missing-argument", subject="RECIPE"))
        try:
            return check(self.arguments.recipe, self.registry, self.arguments.set)
        except RecipeError:
            recognize_other_file(self.arguments, self.registry, trains=self.signals is not None)
            raise


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
