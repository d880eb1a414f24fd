"""A recipe being executed: models, folder, observers, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pluggy
import torch
from torch import nn

from fluxflow_registry import lifecycle
from fluxflow_registry.check import Checked, Configured, world_of
from fluxflow_registry.contracts import Position, Source
from fluxflow_registry.engine.batches import to_device
from fluxflow_registry.engine.folder import RunFolder
from fluxflow_registry.engine.randomness import Draws, derive
from fluxflow_registry.engine.step import LiveStep, StepFacts, facts_of
from fluxflow_registry.engine.turn import made
from fluxflow_registry.engine.values import Values, evaluate
from fluxflow_registry.errors import DataError, FluxflowError, Problem, RecipeError, RunError, TrainingError, one_line
from fluxflow_registry.plan.resolve import Ask, Provider, resolve
from fluxflow_registry.signature import Signature
from fluxflow_registry.state import store

#: Passing checkpoints that are kept, beside the end of each step.
KEPT = 2


class Run:
    """Everything that a run owns; the loop moves it, observers look at it."""

    def __init__(
        self, checked: Checked, folder: RunFolder, sources: Mapping[str, Source], device: torch.device
    ) -> None:
        self.checked = checked
        self.recipe = checked.recipe
        self.name = checked.recipe.name
        self.seed = checked.recipe.seed
        self.run_folder = folder
        self.folder: Path = folder.path
        self.device = device
        self.session = datetime.now().strftime("%Y%m%d_%H%M%S")
        self.sources = sources
        self.steps: list[StepFacts] = [
            facts_of(step, self.sources[step.step.settings.dataset]) for step in checked.steps
        ]
        self.models = build_models(checked, device)
        self.live: LiveStep | None = None
        #: For each step, evaluation and metric: the latest figure.
        self.results: dict[str, dict[str, dict[str, float]]] = {}
        self.stopping: str | None = None
        self.observers = observers_of(checked)

    def reset_models(self) -> None:
        """Give the models their initial weights back."""
        for name, model in build_models(self.checked, self.device).items():
            self.models[name].load_state_dict(model.state_dict())

    def tell(self, event: str, **facts: Any) -> None:
        """Tell all observers; one that raises ends the run, named."""
        try:
            getattr(self.observers.hook, event)(run=self, **facts)
        except FluxflowError:
            raise
        except Exception as error:
            raise TrainingError(f"an observer failed in `{event}`: {one_line(error)}") from error

    def peek(self, dataset: str, count: int) -> dict[str, Any]:
        """The first `count` samples of a dataset, as a batch on the run's device."""
        source = self.sources[dataset]
        indices = range(min(count, len(source)))
        return to_device(source.batch(list(indices), derive(self.seed, "peek", dataset)), self.device)

    def draw(self, values: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Values computed from `batch` without gradient, with averaged weights where there are any."""
        step = self.live.checked if self.live else self.checked.steps[-1]
        models = self.live.evaluation_models() if self.live else self.models
        size = tuple(batch["image"].shape[-2:]) if "image" in batch else batch.get("image_size")
        if size is None and self.live is not None:
            size = self.live.context["image_size"]
        fields = {name: field for name, field in batch.items() if name != "image_size"}
        try:
            return compute(self.checked, step.providers, models, values, fields, self.seed, self.device, size)
        finally:
            if self.live is not None:
                self.live.train_mode()

    def save(self, position: Position, ended: str | None = None) -> Path:
        """Commit a checkpoint of everything that is not a function of the position."""
        step = ended or self.steps[position.step].name
        state: dict[str, dict[str, Any]] = {"model": {name: model.state_dict() for name, model in self.models.items()}}
        if self.live is not None and ended is None:
            state.update(self.live.state())
        name = store.name_of(position.run_batch, step, ended is not None)
        folder = store.save(self.run_folder.checkpoints, name, state, self.meta(position, step))
        store.retain(self.run_folder.checkpoints, KEPT)
        self.tell("checkpoint_saved", position=position, folder=folder)
        return folder

    def meta(self, position: Position, step: str) -> dict[str, Any]:
        """The JSON side of a checkpoint."""
        place = {
            "step": position.step,
            "epoch": position.epoch,
            "batch": position.batch,
            "step_batch": position.step_batch,
            "run_batch": position.run_batch,
        }
        return {"position": place, "step": step, "recipe": self.run_folder.digest, "results": self.results}

    def load_weights(self, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Take the models' weights from a checkpoint; gives the rest of it."""
        state, meta = store.load(folder)
        for name, model in self.models.items():
            try:
                model.load_state_dict(state["model"][name])
            except (KeyError, RuntimeError) as error:
                message = f"does not hold model `{name}` as the recipe describes it: {one_line(error)}"
                hint = ("go on", "with the plugins and versions of environment.json, or begin anew with --fresh")
                raise RunError(Problem(message, str(folder), (hint,))) from error
        return state, meta

    def write_final(self) -> Path:
        """Write each model's weights and architecture to `final/`, or `final/<step>/` for each branch."""
        leaves = self.checked.leaves()
        final = self.folder / "final"
        for leaf in leaves:
            if len(leaves) > 1:
                end = next(f for f in store.listing(self.run_folder.checkpoints) if f.end and f.step == leaf.name)
                self.load_weights(end.folder)
            for name, model in self.models.items():
                target = final / name if len(leaves) == 1 else final / leaf.name / name
                store.write_model(target, config_of(self.checked.models[name]), model.state_dict())
        return final


def open_sources(checked: Checked) -> dict[str, Source]:
    """Open every dataset of the recipe, before anything is written; raises DataError with all that is wrong."""
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for name, dataset in checked.datasets.items():
        try:
            sources[name] = made(dataset)
        except FluxflowError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    for step in checked.steps:
        facts_of(step, sources[step.step.settings.dataset])
    return sources


def config_of(model: Configured) -> dict[str, Any]:
    """The architecture of a model as `config.json`: its type and all its options."""
    from fluxflow_registry.recipe.resolved import component_of, plain

    config: dict[str, Any] = plain(component_of(model.entry, model.component.name, model.instance, ""))
    return config


def build_models(checked: Checked, device: torch.device) -> dict[str, nn.Module]:
    """New models, each from random numbers that depend on the seed and its own name alone."""
    models = {}
    for name, configured in checked.models.items():
        torch.manual_seed(derive(checked.recipe.seed, "model", name))
        models[name] = made_model(configured).to(device)
    return models


def made_model(configured: Configured) -> nn.Module:
    """The module that a builder builds; raises RecipeError where it gives something else."""
    model = made(configured)
    if not isinstance(model, nn.Module):
        message = f"model `{configured.label}`: its builder gives {type(model).__name__}, not an nn.Module"
        notes = (("defined in", configured.component.signature.where),)
        raise RecipeError(Problem(message, configured.where, notes))
    return model


def observers_of(checked: Checked) -> pluggy.PluginManager:
    """A fresh hook caller with every observer of the recipe on it."""
    manager = pluggy.PluginManager("fluxflow")
    manager.add_hookspecs(lifecycle.Lifecycle)
    for label, observer in checked.observers.items():
        manager.register(observer.instance, label)
    return manager


def compute(
    checked: Checked,
    providers: Mapping[str, Configured],
    models: Mapping[str, nn.Module],
    names: Sequence[str],
    batch: Mapping[str, Any],
    seed: int,
    device: torch.device,
    image_size: tuple[int, int] | None,
) -> dict[str, Any]:
    """The named values of a batch, without gradient; raises RunError for a name that nothing provides."""
    world = world_of(batch, models, providers, checked.sampler is not None, image_size is not None, "the batch")
    asks = [
        Ask("the run", Provider(name, Signature((name,), frozenset(), "", "")), checked.recipe.path) for name in names
    ]
    plan, problems = resolve(world, asks)
    if problems:
        raise RunError(problems)
    draws = Draws(device)
    draws.at(seed, "draw")
    for model in models.values():
        model.eval()
    values = Values(plan, providers, models, draws)
    sampler = checked.sampler.instance if checked.sampler else None
    values.begin(batch, step_batch=0, sampler=sampler, image_size=image_size)
    with torch.no_grad():
        return evaluate(values, names)
