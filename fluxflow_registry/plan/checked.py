"""A recipe that is proven: components with their options, steps with their plans; the engine takes nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from fluxflow_registry.contracts import CONTEXT, Field, Sampler
from fluxflow_registry.errors import Location
from fluxflow_registry.plan.updates import StepPlan
from fluxflow_registry.plan.values import Provider, Value, World
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import OWN, Entry, EvaluationEntry, RecipeEntry, StepEntry
from fluxflow_registry.registry.registry import Component


@frozen(eq=False)
class ConfiguredComponent:
    """A component with the recipe's options: `instance` is what is called."""

    label: str
    component: Component
    instance: Any
    where: Location
    entry: Entry | None = None

    @property
    def provider(self) -> Provider:
        """The component as the plan sees it."""
        return provider_of(self.label, self.component, self.entry)


@frozen(eq=False)
class LateStart:
    """When a loss or an update starts: before a batch of the step, or once a transition's condition holds."""

    batch: int = 0
    #: Asked after each epoch, as a step's `until` is; in place of `batch`.
    condition: ConfiguredComponent | None = None

    def __str__(self) -> str:
        """What is waited for, in words; empty where nothing is."""
        if self.condition is None:
            return f"starts at batch {self.batch}" if self.batch else ""
        name = self.condition.component.name
        watched = list(self.condition.instance.metrics()) if hasattr(self.condition.instance, "metrics") else []
        return f"starts by {name}" + (f" of {', '.join(watched)}" if watched else "")


@frozen(eq=False)
class CheckedUpdate:
    """One optimizer's turn, all components ready."""

    name: str
    trains: tuple[str, ...]
    clip_grad_norm: float | None
    losses: Mapping[str, ConfiguredComponent]
    optimizer: ConfiguredComponent
    scheduler: ConfiguredComponent | None
    balancer: ConfiguredComponent | None
    #: When each loss starts, by label, and under OWN when the update itself does.
    starts: Mapping[str, LateStart]

    def weight(self, label: str) -> float:
        """The weight of a loss: the recipe's, else the loss's own default, else 1."""
        loss = self.losses[label]
        stated = loss.entry.settings.weight if loss.entry else None
        return float(stated if stated is not None else getattr(loss.instance, "default_weight", 1.0))


@frozen(eq=False)
class EvaluationPlan:
    """Metrics over samples of a dataset, planned."""

    evaluation: EvaluationEntry
    metrics: Mapping[str, ConfiguredComponent]
    values: Mapping[str, Value]


@frozen(eq=False)
class CheckedStep:
    """A step that is proven: its plan stands."""

    name: str
    index: int
    parent: str | None
    step: StepEntry
    updates: Mapping[str, CheckedUpdate]
    until: ConfiguredComponent | None
    providers: Mapping[str, ConfiguredComponent]
    fields: Mapping[str, Field]
    plan: StepPlan
    evaluations: Mapping[str, EvaluationPlan]

    @property
    def parts(self) -> dict[str, ConfiguredComponent]:
        """What may keep something between batches, by a name for each: `loss.vae.kl`, `value.latent`, `until`."""
        named = {f"value.{name}": self.providers[name] for name, v in self.plan.values.items() if v.source == "value"}
        for update in self.updates.values():
            named.update({f"loss.{update.name}.{label}": loss for label, loss in update.losses.items()})
            waiting = {label: start.condition for label, start in update.starts.items() if start.condition is not None}
            named.update({f"start.{update.name}.{label}".rstrip("."): each for label, each in waiting.items()})
        return {**named, "until": self.until} if self.until is not None else named


@frozen(eq=False)
class RecipePlan:
    """A recipe that is proven; the engine takes nothing else."""

    recipe: RecipeEntry
    models: Mapping[str, ConfiguredComponent]
    datasets: Mapping[str, ConfiguredComponent]
    sampler: ConfiguredComponent | None
    #: The values that the recipe declares or sets for all steps.
    values: Mapping[str, ConfiguredComponent]
    observers: Mapping[str, ConfiguredComponent]
    steps: tuple[CheckedStep, ...]

    def step(self, name: str) -> CheckedStep:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    @property
    def solver(self) -> Sampler | None:
        """The recipe's sampler as values call it: given those of `velocity`, `noise` and `path` that it asks for."""
        if self.sampler is None:
            return None
        call, needs = self.sampler.instance, self.sampler.component.signature.needs

        def solve(velocity: Any, noise: Any, path: Any) -> Any:
            offered = {"velocity": velocity, "noise": noise, "path": path}
            return call(**{name: offered[name] for name in needs})

        return solve

    def leaves(self) -> list[CheckedStep]:
        """The steps that no other step goes on from."""
        parents = {step.parent for step in self.steps}
        return [step for step in self.steps if step.name not in parents]


def called(update: str, name: str) -> str:
    """What starts, in words: a loss of an update by its label, or the update itself under OWN."""
    return f"update `{update}`" if name == OWN else f"loss `{name}` of update `{update}`"


def mention(configured: ConfiguredComponent, name: str) -> Location:
    """Where the options of a component say `name`; where it stands itself, if none of them does."""
    children: Iterable[Node] = configured.entry.options.value.values() if configured.entry else ()
    items: Iterable[Node]
    for child in children:
        if isinstance(child.value, dict) and name in child.keys:
            return child.keys[name]
        items = child.value if isinstance(child.value, list) else [child]
        for item in items:
            if item.value == name:
                return item.where
    return configured.where


def provider_of(label: str, component: Component, entry: Entry | None) -> Provider:
    """A component as the plan sees it, with the recipe's renamings of its needs and their places."""
    stated: Mapping[str, str] = getattr(entry.settings, "with_", {}) if entry else {}
    renames = {need: name for need, name in stated.items() if need in component.signature.needs}
    places = {need: entry.node.at("with", need) for need in renames} if entry else {}
    return Provider(label, component.signature, renames, places)


def world_of(
    fields: Iterable[str],
    models: Iterable[str],
    providers: Mapping[str, ConfiguredComponent],
    sampler: bool,
    image_size: bool,
    dataset: str = "the dataset",
) -> World:
    """The closed world of names of a step, an evaluation or a drawing."""
    absent = {name: hint for name, hint in _HINTS.items() if not {"sampler": sampler, "image_size": image_size}[name]}
    return World(
        fields=frozenset(fields),
        models=frozenset(models),
        context=frozenset(CONTEXT) - set(absent),
        providers={name: configured.provider for name, configured in providers.items()},
        dataset=dataset,
        absent=absent,
    )


#: Names of the engine that are there only when the recipe gives what they are made of.
_HINTS = {
    "sampler": "`sampler: {type: ...}`; `--list-plugins sampler` shows the types",
    "image_size": "a dataset with a field `image`",
}
