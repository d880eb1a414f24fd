"""A recipe against a registry: components with their options, steps with their plans, or every problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve

from fluxflow_registry.check.held_out_data import overlapping
from fluxflow_registry.check.metric_directions import directed
from fluxflow_registry.check.metric_names import unknown_losses, unlogged, unwatchable, withdrawn_losses
from fluxflow_registry.contracts import CONTEXT, KINDS, Draw, Field
from fluxflow_registry.errors import FluxflowError, Location, Problem, RecipeError, choices, one_line
from fluxflow_registry.plan.checked import (
    CheckedStep,
    CheckedUpdate,
    ConfiguredComponent,
    EvaluationPlan,
    LateStart,
    RecipePlan,
    mention,
    provider_of,
    world_of,
)
from fluxflow_registry.plan.updates import LossAsk, UpdateAsk, plan_step
from fluxflow_registry.plan.values import Ask, Provider, World, resolve
from fluxflow_registry.recipe.convert import structure, unknown_keys
from fluxflow_registry.recipe.graph import order
from fluxflow_registry.recipe.load import load, unique
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.overrides import Setting
from fluxflow_registry.recipe.schema import OWN, Entry, EvaluationEntry, RecipeEntry, StepEntry, UpdateEntry
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import gives_tensor, is_configurable

__all__ = ["CheckedStep", "CheckedUpdate", "ConfiguredComponent", "EvaluationPlan", "RecipePlan", "check", "world_of"]

T = TypeVar("T")


def check(
    path: str | Path, registry: Registry, settings: Sequence[str | Setting] = (), root: Node | None = None
) -> RecipePlan:
    """Read and prove a recipe, or the tree `root`; raises RecipeError with every problem of it, in its order."""
    recipe, problems = load(path, settings, root)
    checker = _Checker(registry, recipe, problems)
    checked = checker.run()
    found = unique(checker.problems)
    if found or checked is None:
        raise RecipeError(found)
    return checked


class _Checker:
    """Turns entries into configured components and plans the steps, collecting problems."""

    def __init__(self, registry: Registry, recipe: RecipeEntry, problems: list[Problem]) -> None:
        self.registry = registry
        self.recipe = recipe
        self.problems = list(problems)
        self.builtin: dict[str, ConfiguredComponent] = {}
        #: Parts of the recipe on which every plan stands could not be read: a plan would only repeat it.
        self.blind = bool(recipe.unread & {"models", "datasets", "sampler", "values"})

    def run(self) -> RecipePlan | None:
        recipe = self.recipe
        models = self.configure_all("model", recipe.models)
        datasets = self.configure_all("dataset", recipe.datasets)
        sampler = self.configure("sampler", recipe.sampler) if recipe.sampler else None
        self.check_model_names()
        observers = self.observers()
        shared = self.values(recipe.values, {}, "")
        names, problems = order(recipe.steps)
        self.problems.extend(problems)
        steps = []
        for index, name in enumerate([*names, *(n for n in recipe.steps if n not in names)]):
            step = self.step(recipe.steps[name], index, datasets, shared)
            if step is not None:
                steps.append(step)
        self.observer_draws(observers, datasets, shared)
        self.problems.extend(unlogged(recipe, observers.values(), self.watches))
        self.problems.extend(overlapping(recipe.steps, datasets, self.attempt))
        if self.problems:
            return None
        values = {label: shared[label] for label in recipe.values}
        return RecipePlan(recipe, models, datasets, sampler, values, observers, tuple(steps))

    def attempt(self, what: str, where: Location | None, call: Callable[[], T]) -> T | None:
        """What a component says; what it raises is told as a problem of the recipe that chose it."""
        try:
            return call()
        except FluxflowError as error:
            self.problems.extend(error.problems)
        except Exception as error:
            self.problems.append(Problem(f"{what} fails: {one_line(error)}", where))
        return None

    def configure_all(self, kind: str, entries: Mapping[str, Entry], asked: str = "") -> dict[str, ConfiguredComponent]:
        made = {label: self.configure(kind, entry, asked) for label, entry in entries.items()}
        return {label: configured for label, configured in made.items() if configured is not None}

    def configure(self, kind: str, entry: Entry, asked: str = "") -> ConfiguredComponent | None:
        """The component of an entry with its options, or None after telling what is wrong."""
        component = self.registry.get(kind, entry.type)
        if component is None:
            self.problems.append(self.unknown(kind, entry, asked))
            return None
        instance = self.instance(component, entry.options, f"{kind} `{entry.type}`")
        self.check_renames(component, entry)
        return None if instance is None else ConfiguredComponent(entry.label, component, instance, entry.where, entry)

    def unknown(self, kind: str, entry: Entry, asked: str) -> Problem:
        """The type that nobody registers, or the misspelt `type` that left the label to be one."""
        strays, meant = unknown_keys(entry.options, ["type"], f"{kind} `{entry.label}`")
        if "type" in meant and entry.node.get("type") is None:
            return next(problem for problem in strays if problem.notes[0][0] == "nearest")
        return self.registry.unknown(kind, entry.type, asked, entry.where)

    def instance(self, component: Component, options: Node, what: str) -> Any:
        reserved = KINDS[component.kind].reserved
        if is_configurable(component.factory):
            made, problems = structure(component.factory, options, what, reserved)
            self.problems.extend(problems)
            return made
        problems, _ = unknown_keys(options, reserved, what)
        self.problems.extend(problems)
        return self.attempt(what, component.where, lambda: _plain(component))

    def check_renames(self, component: Component, entry: Entry) -> None:
        for need in getattr(entry.settings, "with_", {}) or {}:
            if need not in component.signature.needs:
                node = entry.node.get("with")
                where = node.keys[need] if node else entry.where
                message = f"`{entry.type}` does not ask for `{need}`, so it cannot be given another value for it"
                self.problems.append(Problem(message, where, choices(need, component.signature.needs, "asks for")))

    def check_model_names(self) -> None:
        for label in self.recipe.models:
            if label in CONTEXT:
                where = self.recipe.node.value["models"].keys[label]
                message = f"`{label}` is provided by the engine itself: a model takes another name"
                self.problems.append(Problem(message, where, (("it is", CONTEXT[label]),)))

    def values(
        self, entries: Mapping[str, Entry], base: Mapping[str, ConfiguredComponent], asked: str
    ) -> dict[str, ConfiguredComponent]:
        """Every provider: the registry's with default options, the recipe's with its own."""
        providers = dict(base) or self.default_values()
        for label, entry in entries.items():
            if label != entry.type and self.registry.get("value", label) is not None:
                message = f"`{label}` is already the name of a value; a value of the recipe's own takes a new name"
                self.problems.append(Problem(message, entry.where))
                continue
            configured = self.configure("value", entry, asked)
            if configured is not None:
                providers[label] = configured
        return providers

    def default_values(self) -> dict[str, ConfiguredComponent]:
        """Each registered value whose options all have defaults; the others wait for the recipe."""
        if not self.builtin:
            for name, component in self.registry.components["value"].items():
                try:
                    made = _plain(component)
                except Exception:  # told when somebody asks for it: see `World.unset`
                    continue
                self.builtin[name] = ConfiguredComponent(name, component, made, component.signature.where)
        return dict(self.builtin)

    def observers(self) -> dict[str, ConfiguredComponent]:
        """The recipe's observers, and those that join every run unless they are sent away."""
        stated = self.recipe.observers
        present = self.configure_all("observer", {k: v for k, v in stated.items() if v is not None})
        types = {configured.component.name for configured in present.values()}
        for name, component in self.registry.components["observer"].items():
            if getattr(component.factory, "default", False) and name not in stated and name not in types:
                made = self.attempt(f"observer `{name}`", component.where, partial(_plain, component))
                if made is not None:
                    present[name] = ConfiguredComponent(name, component, made, component.where)
        for label, entry in stated.items():
            if entry is None and self.registry.get("observer", label) is None:
                node = self.recipe.node.value["observers"]
                self.problems.append(self.registry.unknown("observer", label, "", node.keys[label]))
        return present

    def step(
        self,
        step: StepEntry,
        index: int,
        datasets: Mapping[str, ConfiguredComponent],
        shared: Mapping[str, ConfiguredComponent],
    ) -> CheckedStep | None:
        what = f" in step `{step.name}`"
        providers = self.values(step.values, shared, what)
        fields = self.dataset_fields(step.settings.dataset, step.node, datasets)
        updates = [self.update(update, what) for update in step.updates.values()]
        until = self.configure("transition", step.until, what) if step.until else None
        step, updates, until = directed(step, updates, until, partial(self.registry.get, "metric"), self.attempt)
        self.check_ema(step)
        self.problems.extend(unwatchable(step, until, updates, self.watches, self.figures))
        evaluations = {
            name: self.evaluation(step, evaluation, datasets, providers) for name, evaluation in step.evaluate.items()
        }
        if fields is None or self.blind:
            return None
        world = self.world(fields, providers, step.settings.dataset, step.values)
        plan, problems = plan_step(world, [self.ask(step, update) for update in step.updates.values()])
        self.problems.extend(problems)
        return CheckedStep(
            name=step.name,
            index=index,
            parent=step.parent,
            step=step,
            updates={update.name: update for update in updates if update is not None},
            until=until,
            providers=providers,
            fields=fields,
            plan=plan,
            evaluations={name: e for name, e in evaluations.items() if e is not None},
        )

    def update(self, update: UpdateEntry, what: str) -> CheckedUpdate | None:
        asked = f"{what}, update `{update.name}`"
        losses = self.configure_all("loss", update.losses, asked)
        optimizer = self.configure("optimizer", update.optimizer, asked) if update.optimizer else None
        scheduler = self.configure("scheduler", update.scheduler, asked) if update.scheduler else None
        balancer = self.configure("balancer", update.balancer, asked) if update.balancer else None
        if balancer is not None:
            spared = [label for label in self.named(balancer, "spared") if label not in withdrawn_losses(update)]
            self.problems.extend(unknown_losses(update, balancer, [*self.named(balancer, "losses"), *spared]))
        if optimizer is None:
            return None
        return CheckedUpdate(
            name=update.name,
            trains=tuple(update.settings.trains),
            clip_grad_norm=update.settings.clip_grad_norm,
            losses=losses,
            optimizer=optimizer,
            scheduler=scheduler,
            balancer=balancer,
            starts=self.starts(update, what),
        )

    def starts(self, update: UpdateEntry, what: str) -> dict[str, LateStart]:
        """When the update and each of its losses start."""
        batches = {OWN: update.settings.start, **{name: loss.settings.start for name, loss in update.losses.items()}}
        waiting = {name: self.configure("transition", entry, what) for name, entry in update.starts.items()}
        return {name: LateStart(batch, waiting.get(name)) for name, batch in batches.items()}

    def ask(self, step: StepEntry, update: UpdateEntry) -> UpdateAsk:
        losses = []
        known = {label: self.registry.get("loss", entry.type) for label, entry in update.losses.items()}
        for label, entry in update.losses.items():
            component = known[label]
            if component is not None:
                who = f"loss `{label}` of update `{update.name}` in step `{step.name}`"
                provider = provider_of(label, component, entry)
                detach = tuple(entry.settings.detach)
                places = tuple(entry.node.at("detach", i) for i in range(len(detach)))
                losses.append(LossAsk(label, Ask(who, provider, entry.where), detach, places))
        trains = tuple(update.settings.trains)
        return UpdateAsk(
            name=update.name,
            trains=trains,
            losses=tuple(losses),
            trains_where=tuple(update.node.at("trains", i) for i in range(len(trains))),
            where=update.node.where,
            partial=update.partial or None in known.values(),
        )

    def evaluation(
        self,
        step: StepEntry,
        evaluation: EvaluationEntry,
        datasets: Mapping[str, ConfiguredComponent],
        providers: Mapping[str, ConfiguredComponent],
    ) -> EvaluationPlan | None:
        what = f" in evaluation `{evaluation.name}` of step `{step.name}`"
        metrics = self.configure_all("metric", evaluation.metrics, what)
        name = evaluation.settings.dataset
        fields = self.dataset_fields(name, evaluation.node, datasets)
        if fields is None or self.blind:
            return None
        asks = [Ask(f"metric `{label}`{what}", metric.provider, metric.where) for label, metric in metrics.items()]
        values, problems = resolve(self.world(fields, providers, name, step.values), asks)
        self.problems.extend(problems)
        return EvaluationPlan(evaluation, metrics, values)

    def dataset_fields(
        self, name: str, node: Node, datasets: Mapping[str, ConfiguredComponent]
    ) -> Mapping[str, Field] | None:
        """The fields of the dataset that a step or an evaluation names; one that it misses has been told."""
        stated = node.get("dataset")
        if stated is None or stated.value != name:
            return None
        return self.fields(name, stated.where, datasets)

    def fields(
        self, name: str, where: Location, datasets: Mapping[str, ConfiguredComponent]
    ) -> Mapping[str, Field] | None:
        if name in datasets:
            dataset = datasets[name]
            what = f"`fields` of dataset `{dataset.component.name}`"
            return self.attempt(what, dataset.where, lambda: dict(dataset.instance.fields()))
        if name not in self.recipe.datasets and "datasets" not in self.recipe.unread:
            message = f"`{name}` is no dataset of the recipe"
            self.problems.append(Problem(message, where, choices(name, self.recipe.datasets, "datasets")))
        return None

    def world(
        self,
        fields: Mapping[str, Field],
        providers: Mapping[str, ConfiguredComponent],
        dataset: str,
        own: Iterable[str] = (),
    ) -> World:
        """The names of a step; `own` are the values that it declares itself."""
        world = world_of(
            fields,
            self.recipe.models,
            providers,
            sampler=self.recipe.sampler is not None,
            image_size="image" in fields,
            dataset=f"dataset `{dataset}`",
        )
        declared = {*self.recipe.values, *own}
        return evolve(
            world,
            unread=frozenset(declared - set(providers)),
            unset=frozenset(self.registry.components["value"]) - declared - set(providers),
        )

    def check_ema(self, step: StepEntry) -> None:
        trained = {model for update in step.updates.values() for model in update.settings.trains}
        if not step.updates or any(update.partial for update in step.updates.values()):
            return
        for index, model in enumerate(step.settings.ema.models if step.settings.ema else []):
            if model not in trained:
                message = f"step `{step.name}` averages `{model}`, which none of its updates trains"
                where = step.node.at("ema", "models", index)
                self.problems.append(Problem(message, where, choices(model, trained, "trained")))

    def watches(self, watcher: ConfiguredComponent) -> list[str]:
        """The metrics that a transition or an observer says that it watches."""
        return self.named(watcher, "metrics")

    def named(self, configured: ConfiguredComponent, method: str) -> list[str]:
        """The names that a component says its options give; none where it has no such method."""
        what = f"`{method}` of {configured.component.kind} `{configured.component.name}`"
        if not hasattr(configured.instance, method):
            return []
        return self.attempt(what, configured.where, lambda: list(getattr(configured.instance, method)())) or []

    def figures(self, evaluation: EvaluationEntry) -> list[str] | None:
        """What an evaluation measures, by its metrics' labels; None where one may give a dict of figures."""
        components = [self.registry.get("metric", entry.type) for entry in evaluation.metrics.values()]
        single = all(component is not None and gives_tensor(component.factory) for component in components)
        return list(evaluation.metrics) if single else None

    def observer_draws(
        self,
        observers: Mapping[str, ConfiguredComponent],
        datasets: Mapping[str, ConfiguredComponent],
        shared: Mapping[str, ConfiguredComponent],
    ) -> None:
        """Values that observers will want are asked for now, not at the end of a long run."""
        for label, observer in observers.items():
            if self.blind or not hasattr(observer.instance, "draws"):
                continue
            what = f"`draws` of observer `{label}`"
            for draw in self.attempt(what, observer.where, partial(_draws, observer)) or ():
                self.observer_draw(observer, draw, datasets, shared)

    def observer_draw(
        self,
        observer: ConfiguredComponent,
        draw: Draw,
        datasets: Mapping[str, ConfiguredComponent],
        shared: Mapping[str, ConfiguredComponent],
    ) -> None:
        for step in draw.steps:
            if step not in self.recipe.steps and "steps" not in self.recipe.unread:
                message = f"observer `{observer.label}` draws in step `{step}`, which there is not"
                notes = choices(step, self.recipe.steps, "steps")
                self.problems.append(Problem(message, mention(observer, step), notes))
        fields: Iterable[str] | None = draw.fields
        if draw.dataset is not None:
            fields = self.fields(draw.dataset, mention(observer, draw.dataset), datasets)
        if fields is None:
            return
        world = world_of(fields, self.recipe.models, shared, self.recipe.sampler is not None, True)
        for name in (*draw.values, *draw.optional):
            asks = [Ask(f"observer `{observer.label}`", _wanting(observer, name), mention(observer, name))]
            problems = resolve(world, asks)[1]
            self.problems.extend(problems if name in draw.values else [])


def _draws(observer: ConfiguredComponent) -> list[Draw]:
    return list(observer.instance.draws())


def _plain(component: Component) -> Any:
    """A component without options: a function as it is, a class with its defaults."""
    return component.factory() if inspect.isclass(component.factory) else component.factory


def _wanting(observer: ConfiguredComponent, name: str) -> Provider:
    """An observer's wish for one value, in the form in which losses wish."""
    signature = evolve(observer.component.signature, needs=(name,), where=observer.component.where)
    return Provider(observer.label, evolve(signature, text=f"class {observer.component.factory.__name__}"))
