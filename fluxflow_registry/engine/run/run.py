"""A recipe being executed: models, folder, observers, and where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pluggy
import torch
from attrs import asdict, evolve
from torch import Tensor, nn

from fluxflow_registry.check.checker import ConfiguredComponent, RecipePlan, world_of
from fluxflow_registry.contracts import Lifecycle, NoisePath, Position, Sampler, Source, VelocityField
from fluxflow_registry.engine.data.batches import Batch, Reader, to_device
from fluxflow_registry.engine.data.opening import told_once, unfilled
from fluxflow_registry.engine.data.order import alike, buckets_of, filling, left_out
from fluxflow_registry.engine.graph.randomness import Draws, derive, prefer_repeatable
from fluxflow_registry.engine.graph.values import Values, evaluate
from fluxflow_registry.engine.models.frozen import remember_held
from fluxflow_registry.engine.models.options import apply_settings
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.engine.run.history import Means, RunHistory
from fluxflow_registry.engine.run.saver import Saved, Saver
from fluxflow_registry.engine.training.component_state import InitialState
from fluxflow_registry.engine.training.step import LiveStep, StepFacts, facts_of, size_of
from fluxflow_registry.engine.training.update import made
from fluxflow_registry.errors import (
    DataError,
    FluxflowError,
    Place,
    Problem,
    RecipeError,
    RunError,
    TrainingError,
    one_line,
)
from fluxflow_registry.plan.values import Ask, Provider, Value, resolve
from fluxflow_registry.registry.signature import Signature
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.models import write_model

#: Events that the run tells again when it goes on, so that what observers do then may be broken off.
TOLD_AGAIN = frozenset({"step_started", "epoch_started", "evaluated", "epoch_ended", "step_ended", "run_ended"})


class Interrupted(Exception):  # noqa: N818 - not an error: whatever is being drawn or measured is not needed now
    """The run is to stop: raised while something is drawn or measured, which is then done again."""


class Run:
    """Everything that a run owns; the loop moves it, observers look at it."""

    def __init__(
        self, checked: RecipePlan, folder: RunFolder, sources: Mapping[str, Source], device: torch.device
    ) -> None:
        self.checked = checked
        self.recipe = checked.recipe
        self.name = checked.recipe.name
        self.seed = checked.recipe.seed
        self.run_folder = folder
        self.folder: Path = folder.path
        self.device = device
        prefer_repeatable(device)
        self.session = datetime.now().strftime("%Y%m%d_%H%M%S")
        self.sources = sources
        self.steps: list[StepFacts] = [
            facts_of(step, self.sources[step.step.settings.dataset]) for step in checked.steps
        ]
        self.models = build_models(checked, device)
        self.live: LiveStep | None = None
        #: For each step, evaluation and metric: the latest figure.
        self.results: dict[str, dict[str, dict[str, float]]] = {}
        self.chronicle = RunHistory()
        #: For each dataset: samples that cannot be read, by index, and why.
        self.damaged: dict[str, dict[str, str]] = {}
        #: The identity of each dataset whose samples could change.
        self.data = {name: str(source.digest) for name, source in sources.items() if hasattr(source, "digest")}
        #: What of each dataset is not trained on, as it was told.
        self.told_left_out: set[tuple[str, str]] = set()
        self.stopping: str | None = None
        #: Whether this is a replay, which leaves nothing behind.
        self.silent = False
        self.observers = observers_of(checked)
        #: Observers that could not write, and why.
        self.excused: set[tuple[str, int | None]] = set()
        self.saver = Saver(folder.checkpoints)
        self.beginnings = InitialState(checked.steps)

    def reset_models(self) -> None:
        """Give the models their initial weights back."""
        for name, model in build_models(self.checked, self.device).items():
            self.models[name].load_state_dict(model.state_dict())

    def tell(self, event: str, **facts: Any) -> None:
        """Tell each observer; one that raises ends the run, named, unless the disk is to blame."""
        offered = {"run": self, **facts}
        for heard in reversed(getattr(self.observers.hook, event).get_hookimpls()):
            try:
                heard.function(**{name: offered[name] for name in heard.argnames})
            except FluxflowError:
                raise
            except Interrupted:
                # Elsewhere the batch has moved on already, and the stop comes at its end.
                if event in TOLD_AGAIN:
                    raise
            except OSError as error:
                self._excuse(heard.plugin_name, event, error, facts.get("position", Position()))
            except Exception as error:
                message = f"observer `{heard.plugin_name}` failed in `{event}`: {one_line(error)}"
                raise TrainingError(message) from error

    def _excuse(self, observer: str, event: str, error: OSError, position: Position) -> None:
        """Warn once of an observer that cannot write: what is trained does not depend on it."""
        if (observer, error.errno) not in self.excused:
            self.excused.add((observer, error.errno))
            message = f"observer `{observer}` failed in `{event}`: {one_line(error)}; training goes on without"
            self.tell("warned", position=position, message=message)

    @property
    def history(self) -> Means:
        """For each step and metric: its mean over each closed epoch."""
        return self.chronicle.means

    def warn(self, position: Position, message: str) -> None:
        """Tell all observers of something that the user should know."""
        self.tell("warned", position=position, message=message)

    def poll(self) -> None:
        """Raise Interrupted where the run was asked to stop."""
        if self.stopping is not None:
            raise Interrupted

    def reached(self, position: Position) -> None:
        """A batch is about to be trained on; a replay ends here."""

    @property
    def sampler(self) -> Sampler | None:
        """The recipe's sampler, which looks up at every step whether the run is to stop."""
        solver = self.checked.solver
        if solver is None:
            return None

        def polled(velocity: VelocityField, noise: Tensor, path: NoisePath) -> Tensor:
            def field(x: Tensor, t: Tensor) -> Tensor:
                self.poll()
                return velocity(x, t)

            return solver(field, noise, path)

        return polled

    def peek(self, dataset: str, count: int) -> dict[str, Any]:
        """The first `count` samples of a dataset, as a batch on the run's device; of one bucket, where it has some."""
        source = self.sources[dataset]
        order = alike(source)
        reader = Reader(source, order, derive(self.seed, "peek", dataset))
        read = reader.read(0, min(count, len(order)))
        self.tell_replaced(dataset, read, Position())
        return to_device(read.fields, self.device)

    def tell_replaced(self, dataset: str, batch: Batch, position: Position) -> None:
        """Tell of samples that cannot be read and whose places others have taken, each once in a run."""
        known = self.damaged.setdefault(dataset, {}) if batch.replaced else {}
        for replaced in batch.replaced:
            if str(replaced.index) not in known:
                known[str(replaced.index)] = told = str(replaced.problem)
                message = f"dataset `{dataset}`: sample {replaced.index} is replaced by the next one\n    {told}"
                self.tell("warned", position=position, message=message)

    def tell_left_out(self, live: LiveStep, position: Position) -> None:
        """Tell what the source of a step notes, and which samples are not trained on, once in this process."""
        name, size = live.settings.dataset, live.settings.batch_size
        left = getattr(live.source, "left_out", ())
        said = [*getattr(live.source, "notes", ()), *([left_out(left)] if left else [])]
        if buckets_of(live.source) is not None:
            said += [told for told in [filling(live.source, size).told()] if told]
        for told in said:
            if (name, told) not in self.told_left_out:
                self.told_left_out.add((name, told))
                self.tell("warned", position=position, message=f"dataset `{name}`: {told}")

    def upstream(self, value: str, fields: Iterable[str]) -> frozenset[str] | None:
        """The models on which a value depends that is drawn from these fields; None where it cannot be drawn."""
        step = self.live.checked if self.live else self.checked.steps[-1]
        known = set(fields)
        sized = bool(known & {"image", "image_size"}) or (self.live is not None and self.live.context["image_size"])
        plan, problems = planned(
            self.checked, step.providers, self.models, [value], known - {"image_size"}, bool(sized)
        )
        return None if problems else plan[value].models

    def draw(self, values: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Values computed from `batch` without gradient, with averaged weights where there are any."""
        step = self.live.checked if self.live else self.checked.steps[-1]
        models = self.live.evaluation_models() if self.live else self.models
        size = size_of(batch) or batch.get("image_size")
        if size is None and self.live is not None:
            size = self.live.context["image_size"]
        fields = to_device({name: field for name, field in batch.items() if name != "image_size"}, self.device)
        self.poll()
        with self.live.aside() if self.live else nullcontext():
            return compute(
                self.checked, step.providers, models, values, fields, self.seed, self.device, size, self.sampler
            )

    def save(self, position: Position, kind: checkpoints.Kind, step: LiveStep, wait: bool = False) -> Path:
        """Save everything that is not a function of the position; the disk is waited for only if told so.

        Raises TrainingError where it is waited for and cannot be written; otherwise that is a warning.
        """
        state: dict[str, dict[str, Any]] = {"model": {name: model.state_dict() for name, model in self.models.items()}}
        if kind != "end":
            state.update(step.state())
        name = checkpoints.name_of(position.run_batch, step.facts.name, kind)
        meta, keep = self.meta(position, step.facts.name), step.settings.keep_checkpoints
        models = {("model", n): m for n, m in self.models.items()} | {
            ("ema", n): average.module for n, average in step.averages.items()
        }
        buffers = {part: {key for key, _ in model.named_buffers()} for part, model in models.items()}
        self._heed(self.saver.begin(name, position, state, meta, step.frozen, keep, buffers), needed=False)
        if wait:
            self.collect(wait=True, needed=True)
        return self.run_folder.checkpoints / name

    def collect(self, wait: bool = False, needed: bool = False) -> None:
        """Tell of the checkpoint that is being written, if it is written, or once it is."""
        self._heed(self.saver.wait() if wait else self.saver.poll(), needed)

    def _heed(self, saved: Saved | None, needed: bool) -> None:
        if saved is None:
            return
        if saved.error is None:
            self.tell("checkpoint_saved", position=saved.position, folder=saved.folder)
            return
        left = checkpoints.listing(self.run_folder.checkpoints)
        stands = f"checkpoint {left[0].folder.name} stands" if left else "there is no checkpoint yet"
        if needed:
            notes = (("what is left", f"{stands}; the same command goes on from there"),)
            raise TrainingError([*saved.error.problems[:-1], evolve(saved.error.problems[-1], notes=notes)])
        message = f"{saved.error}\n    {stands}; training goes on, and saves again when the next one is due"
        self.tell("warned", position=saved.position, message=message)

    def meta(self, position: Position, step: str) -> dict[str, Any]:
        """The JSON side of a checkpoint."""
        return {
            "position": asdict(position),
            "step": step,
            "epoch": sum(self.chronicle.epochs.values()),
            "global_step": position.run_batch,
            "pipeline_metadata": self.chronicle.metadata(position, [facts.name for facts in self.steps]),
            "recipe": self.run_folder.digest,
            "results": self.results,
            "damaged": self.damaged,
            "data": self.data,
        }

    def note(self, position: Position) -> None:
        """Leave word of how far training is, for whoever asks meanwhile."""
        if not self.silent:
            self.run_folder.note(position)

    def load_weights(
        self, folder: Path, manifest: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Load the models' weights from a checkpoint, and return all of it; see `store.load` for the manifest."""
        state, meta = store.load(folder, manifest)
        for name, model in self.models.items():
            try:
                model.load_state_dict(state["model"][name])
            except (KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
                message = f"does not hold model `{name}` as the recipe describes it: {one_line(error)}"
                hint = ("go on", "with the plugins and versions of environment.json, or begin anew with --fresh")
                raise RunError(Problem(message, str(folder), (hint,))) from error
        return state, meta

    def end_of(self, step: str) -> Path:
        """The checkpoint in which a step ended; raises RunError where it is not there."""
        root = self.run_folder.checkpoints
        for found in checkpoints.listing(root):
            if found.end and found.step == step:
                return found.folder
        raise RunError(Problem(f"the end of step `{step}` is not there; begin anew with --fresh", str(root)))

    def write_final(self) -> Path:
        """Write each model's weights and architecture to `final/`, or `final/<step>/` for each branch."""
        leaves = self.checked.leaves()
        final = self.folder / "final"
        for leaf in leaves:
            if len(leaves) > 1:
                self.load_weights(self.end_of(leaf.name))
            for name, model in self.models.items():
                target = final / name if len(leaves) == 1 else final / leaf.name / name
                write_model(target, config_of(self.checked.models[name]), model.state_dict())
        return final


def open_sources(checked: RecipePlan) -> dict[str, Source]:
    """Open every dataset of the recipe, before anything is written; raises DataError with all that is wrong."""
    sources = open_datasets(checked)
    if problems := unfilled(checked, sources):
        raise DataError(problems)
    return sources


def open_datasets(checked: RecipePlan) -> dict[str, Source]:
    """Open every dataset, whether or not it fills a batch of the steps that use it; raises DataError."""
    sources: dict[str, Source] = {}
    refused: dict[str, Sequence[Problem]] = {}
    for name, dataset in checked.datasets.items():
        try:
            sources[name] = made(dataset)
        except FluxflowError as error:
            refused[name] = error.problems
    if refused:
        raise DataError(told_once(refused, checked.datasets))
    return sources


def config_of(model: ConfiguredComponent) -> dict[str, Any]:
    """The architecture of a model as `config.json`: its type and all its options."""
    from fluxflow_registry.recipe.writer import component_of, plain

    config: dict[str, Any] = plain(component_of(model.entry, model.component.name, model.instance, ""))
    return config


def build_models(
    checked: RecipePlan,
    device: torch.device,
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    compiled: bool = True,
) -> dict[str, nn.Module]:
    """New models, each from random numbers that depend on the seed and its own name alone.

    `weights` are those that will be loaded into them, where there are any already.
    """
    models = {}
    for name, configured in checked.models.items():
        torch.manual_seed(derive(checked.recipe.seed, "model", name))
        model = made_model(configured, (weights or {}).get(name)).to(device)
        models[name] = apply_settings(model, configured, compiled)
    return models


def made_model(configured: ConfiguredComponent, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The module that a builder builds; raises RecipeError where it gives something else."""
    model = made(configured, weights=weights)
    if not isinstance(model, nn.Module):
        message = f"model `{configured.label}`: its builder gives {type(model).__name__}, not an nn.Module"
        notes = (("defined in", str(configured.component.signature.where)),)
        raise RecipeError(Problem(message, configured.where, notes))
    remember_held(model)
    return model


def observers_of(checked: RecipePlan) -> pluggy.PluginManager:
    """A fresh hook caller with every observer of the recipe on it."""
    manager = pluggy.PluginManager("fluxflow")
    manager.add_hookspecs(Lifecycle)
    for label, observer in checked.observers.items():
        manager.register(observer.instance, label)
    return manager


def compute(
    checked: RecipePlan,
    providers: Mapping[str, ConfiguredComponent],
    models: Mapping[str, nn.Module],
    names: Sequence[str],
    batch: Mapping[str, Any],
    seed: int,
    device: torch.device,
    image_size: tuple[int, int] | None,
    sampler: Sampler | None,
) -> dict[str, Any]:
    """The named values of a batch, without gradient; raises RunError for a name that nothing provides."""
    plan, problems = planned(checked, providers, models, names, batch, image_size is not None)
    if problems:
        raise RunError(problems)
    draws = Draws(device)
    draws.at(seed, "draw")
    for model in models.values():
        model.eval()
    values = Values(plan, providers, models, draws)
    values.begin(batch, step_batch=0, sampler=sampler, image_size=image_size)
    with torch.no_grad():
        return evaluate(values, names)


def planned(
    checked: RecipePlan,
    providers: Mapping[str, ConfiguredComponent],
    models: Iterable[str],
    names: Sequence[str],
    fields: Iterable[str],
    sized: bool,
) -> tuple[dict[str, Value], list[Problem]]:
    """The plan of the named values of a batch with these fields, and every name that fails."""
    world = world_of(fields, models, providers, checked.sampler is not None, sized, "the batch")
    asks = [
        Ask("the run", Provider(name, Signature((name,), frozenset(), Place(""), "")), Place(checked.recipe.path))
        for name in names
    ]
    return resolve(world, asks)
