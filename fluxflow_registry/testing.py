"""What tests of plugins need: a registry with given components, a recipe from a string, a tiny trained run.

    registry = registry_with(["shapes", "torch", "vae"], losses={"mine": Mine})
    trained = train(plan_recipe(TEXT, registry), tmp_path)
    assert trained.history["vae"]["vae/mine"][-1] < 0.1

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from attrs import frozen

from fluxflow_registry.check.checker import check
from fluxflow_registry.contracts import KINDS, Position
from fluxflow_registry.errors import PluginError
from fluxflow_registry.hookspecs import Register, hookimpl
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TrainedRun", "plan_recipe", "plugin_of", "registry_with", "train"]


def plugin_of(**components: Mapping[str, Any]) -> SimpleNamespace:
    """A plugin in memory: for each kind in the plural (`losses`, `values` ...) its components by name.

    Raises PluginError for a kind that does not exist.
    """
    hooks = {kind.plural: kind.hook for kind in KINDS.values()}
    for plural in components:
        if plural not in hooks:
            message = f"`{plural}` is not the plural of a kind of component"
            raise PluginError(message, code="unknown-name", subject=plural, choices=hooks)
    return SimpleNamespace(**{hooks[plural]: _hook(hooks[plural], each) for plural, each in components.items()})


def _hook(name: str, components: Mapping[str, Any]) -> Any:
    def hook(register: Register) -> None:
        for label, component in components.items():
            register(label, component)

    hook.__name__ = name
    return hookimpl(hook)


def registry_with(plugins: Iterable[str] = (), **components: Mapping[str, Any]) -> Registry:
    """The installed plugins of these names, and components by kind in the plural: `losses={"mine": Mine}`.

    The components are verified as those of any plugin; raises PluginError.
    """
    registry = load(plugins)
    if components:
        add_plugin(registry, Plugin("test", "test", "", ""), plugin_of(**components))
    return registry


def plan_recipe(text: str, registry: Registry, *settings: str) -> RecipePlan:
    """The plan of a recipe in YAML, with settings as of `--set`; raises RecipeError with every problem of it."""
    return check("recipe.yaml", registry, settings, parse(text, "recipe.yaml"))


@frozen(eq=False)
class TrainedRun:
    """What a run has left: its folder, the weights of each model, the mean of each metric in each epoch by step."""

    folder: Path
    weights: Mapping[str, Mapping[str, Tensor]]
    history: Mapping[str, Mapping[str, list[float]]]
    #: Where the run was stopped; None where it is finished.
    stopped: Position | None


class _StopAfter:
    """An observer that asks the run to stop after a batch of it."""

    def __init__(self, run_batch: int) -> None:
        self.run_batch = run_batch

    @hookimpl
    def batch_ended(self, run: Any, position: Position) -> None:
        if position.run_batch == self.run_batch:
            run.engine.stopping = "the test"


def train(
    plan: RecipePlan, folder: Path, observers: Iterable[object] = (), stop_after: int | None = None
) -> TrainedRun:
    """Check a recipe as `--check` does and train it on the CPU in `folder`, or resume the unfinished run that is there.

    `stop_after` stops the run with a checkpoint after that batch of it, as a signal would.
    """
    import torch

    from fluxflow_registry.engine.preflight.everything import try_everything
    from fluxflow_registry.engine.run import folder as folders
    from fluxflow_registry.engine.run.loop import train as train_run
    from fluxflow_registry.engine.run.run import Run
    from fluxflow_registry.engine.run.stopping import Stopped

    device = torch.device("cpu")
    sources = try_everything(plan, device).sources
    name = plan.recipe.name
    place = folders.unfinished(folder, name, "test")[0] or folders.new(folder, name, "test")
    place.write_identity(finished=False)
    run = Run(plan, place, sources, device)
    for observer in (*observers, *([_StopAfter(stop_after)] if stop_after is not None else [])):
        run.observers.register(observer)
    stopped = None
    try:
        train_run(run)
    except Stopped as stop:
        stopped = stop.position
    weights = {name: dict(model.state_dict()) for name, model in run.models.items()}
    return TrainedRun(place.path, weights, run.history.means, stopped)
