"""Small recipes, and runs of them in this process."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fluxflow_registry import hookimpl
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.loop import train
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.run.stopping import Stopped
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..small import PLUGINS, sized


@pytest.fixture(scope="session")
def registry() -> Registry:
    """First-party plugins without observers: the engine is to be seen alone."""
    return load(PLUGINS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _forked() -> None:
    """Workers have what a test patches, whatever default a library has asked for (Python 3.14: `forkserver`)."""
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)


@pytest.fixture
def checked(registry: Registry, tmp_path: Path) -> Callable[..., RecipePlan]:
    """Check a recipe's text with settings."""

    def make(text: str, *settings: str, using: Registry | None = None) -> RecipePlan:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return check(path, using or registry, settings)

    return make


@pytest.fixture
def live() -> Callable[..., LiveStep]:
    """A step of a checked recipe, ready to take batches."""

    def make(recipe: RecipePlan, step: int = 0, models: Mapping[str, nn.Module] | None = None) -> LiveStep:
        from fluxflow_registry.engine.models.build import build_models

        device = torch.device("cpu")
        modules = dict(models) if models else build_models(recipe, device)
        source = open_sources(recipe)[recipe.steps[step].settings.dataset]
        return LiveStep(sized(recipe.steps[step], source), source, modules, recipe.recipe.seed, device, recipe.solver)

    return make


@pytest.fixture(scope="session")
def uninterrupted(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """The run of a recipe's text with settings, from start to end, trained once for all tests that compare with it.

    They must leave the run and its folder as they are, and components of `using` must not keep anything between runs.
    """
    runs: dict[Any, tuple[Run, Registry]] = {}

    def run_of(text: str, *settings: str, using: Registry = registry) -> Run:
        key = (text, settings, id(using))
        if key not in runs:
            root = tmp_path_factory.mktemp("uninterrupted")
            path = root / "recipe.yaml"
            path.write_text(text)
            runs[key] = start(check(path, using, settings), root / "runs").run, using
        return runs[key][0]

    return run_of


class StopAfter:
    """An observer that asks the run to stop after a number of events."""

    def __init__(self, event: str, count: int) -> None:
        self.event, self.left = event, count

    def _count(self, event: str, run: Any) -> None:
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                run.engine.stopping = "SIGTERM"

    @hookimpl
    def batch_ended(self, run: Any) -> None:
        self._count("batch_ended", run)

    @hookimpl
    def epoch_ended(self, run: Any) -> None:
        self._count("epoch_ended", run)

    @hookimpl
    def step_started(self, run: Any) -> None:
        self._count("step_started", run)

    @hookimpl
    def evaluated(self, run: Any) -> None:
        self._count("evaluated", run)

    @hookimpl
    def step_ended(self, run: Any) -> None:
        self._count("step_ended", run)


def start(recipe: RecipePlan, root: Path, observers: Sequence[Any] = ()) -> SimpleNamespace:
    """Run a recipe in `root`, or resume its run there; returns the run, and its position if it was stopped."""
    found, _ = folders.unfinished(root, recipe.recipe.name, "digest")
    folder = found or folders.new(root, recipe.recipe.name, "digest")
    folder.write_identity(finished=False)
    run = Run(recipe, folder, open_sources(recipe), torch.device("cpu"))
    for observer in observers:
        run.observers.register(observer)
    try:
        train(run)
    except Stopped as stopped:
        return SimpleNamespace(run=run, stopped=stopped.position)
    return SimpleNamespace(run=run, stopped=None)


def weights(models: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {f"{n}.{k}": v.clone() for n, model in models.items() for k, v in model.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], models: Mapping[str, nn.Module]) -> set[str]:
    """The models any of whose parameters have moved."""
    return {
        name
        for name, model in models.items()
        for key, value in model.named_parameters()
        if not torch.equal(before[f"{name}.{key}"], value)
    }
