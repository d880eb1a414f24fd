"""The plan of a recipe: its steps, each complete and proven; everything later reads this one tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from fluxflow_registry.contracts import Field, Sampler, TransitionExtras
from fluxflow_registry.errors import Problem, TrainingError
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.updates import UpdatePlan, WhenMet
from fluxflow_registry.plan.values import ValuePlan
from fluxflow_registry.recipe.schema import EvaluationEntry, EvaluationSettings, RecipeEntry, StepEntry, StepSettings


@frozen(eq=False)
class EvaluationPlan:
    """Metrics over samples of a dataset, and the values that they need."""

    entry: EvaluationEntry
    metrics: Mapping[str, ConfiguredComponent]
    values: Mapping[str, ValuePlan]

    @property
    def name(self) -> str:
        """The name of the evaluation in its step."""
        return self.entry.name

    @property
    def settings(self) -> EvaluationSettings:
        """The dataset, how many of its samples, and how often."""
        return self.entry.settings


# More than a dozen members: observers see it as StepView, which has most of them.
@frozen(eq=False)
class StepPlan:
    """A planned step; observers see it as `StepView`."""

    entry: StepEntry
    #: Its place in the order of execution, from 0.
    index: int
    until: ConfiguredComponent | None
    #: Every value that exists in the step, whether or not its losses need it.
    providers: Mapping[str, ConfiguredComponent]
    fields: Mapping[str, Field]
    values: Mapping[str, ValuePlan]
    updates: Mapping[str, UpdatePlan]
    evaluations: Mapping[str, EvaluationPlan]
    #: Batches of one epoch, each view counted; 0 until the dataset is open.
    batches: int = 0

    @property
    def name(self) -> str:
        """The name of the step in the recipe."""
        return self.entry.name

    @property
    def parent(self) -> str | None:
        """The step from whose end it starts; None: from new weights."""
        return self.entry.parent

    @property
    def settings(self) -> StepSettings:
        """The plain settings of the step."""
        return self.entry.settings

    @property
    def epochs(self) -> int:
        """The most epochs that there can be."""
        limit = TransitionExtras.of(self.until.instance).max_epochs if self.until else None
        return self.settings.epochs if limit is None else limit

    @property
    def accumulate(self) -> int:
        """Batches whose gradients are averaged."""
        return self.settings.accumulate

    @property
    def trains(self) -> frozenset[str]:
        """Every model that some update trains."""
        return frozenset().union(*(update.trains for update in self.updates.values()))

    @property
    def frozen(self) -> frozenset[str]:
        """Every model that some value or loss uses, and that no update trains."""
        return frozenset(name for name, value in self.values.items() if value.source == "model") - self.trains

    @property
    def detached(self) -> frozenset[str]:
        """The values at which some loss detaches the graph."""
        return frozenset().union(*(loss.detached for u in self.updates.values() for loss in u.losses.values()))

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images in a batch of the usual form; None where the dataset has none."""
        image = self.fields.get("image")
        return (image.shape[-2], image.shape[-1]) if image is not None and image.shape else None

    @property
    def components(self) -> dict[str, ConfiguredComponent]:
        """What may keep state between batches, by a name for each: `loss.vae.kl`, `value.latent`, `until`."""
        named = {f"value.{name}": value.provider for name, value in self.values.items() if value.source == "value"}
        for update in self.updates.values():
            named.update({f"loss.{update.name}.{label}": loss.component for label, loss in update.losses.items()})
            conditions = {name: start.condition for name, start in update.starts.items() if isinstance(start, WhenMet)}
            named.update({f"start.{update.name}.{name}".rstrip("."): each for name, each in conditions.items()})
        return {**named, "until": self.until} if self.until is not None else named


@frozen(eq=False)
class RecipePlan:
    """A planned recipe: proven, and all that the engine reads."""

    recipe: RecipeEntry
    models: Mapping[str, ConfiguredComponent]
    datasets: Mapping[str, ConfiguredComponent]
    sampler: ConfiguredComponent | None
    #: The values that the recipe declares or sets for all steps.
    values: Mapping[str, ConfiguredComponent]
    observers: Mapping[str, ConfiguredComponent]
    steps: tuple[StepPlan, ...]

    def step(self, name: str) -> StepPlan:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    def fields(self, dataset: str) -> Mapping[str, Field]:
        """The fields that a dataset of the recipe declares."""
        return dict(self.datasets[dataset].instance.fields())

    @property
    def leaves(self) -> list[StepPlan]:
        """The steps from whose end no other step starts."""
        parents = {step.parent for step in self.steps}
        return [step for step in self.steps if step.name not in parents]

    @property
    def solver(self) -> Sampler | None:
        """The recipe's sampler as values call it: it gets those of `velocity`, `noise` and `path` that it needs."""
        if self.sampler is None:
            return None
        sampler, call, needs = self.sampler, self.sampler.instance, self.sampler.component.signature.needs

        def solve(velocity: Any, noise: Any, path: Any) -> Any:
            arguments = {"velocity": velocity, "noise": noise, "path": path}
            sample = call(**{name: arguments[name] for name in needs})
            if getattr(sample, "shape", None) != getattr(noise, "shape", None):
                returned = list(sample.shape) if hasattr(sample, "shape") else f"a {type(sample).__name__}"
                message = f"sampler `{sampler.name}` returned {returned} for noise of shape {list(noise.shape)}"
                notes = (("defined in", sampler.definition),)
                problem = Problem(message, sampler.where, notes, code="wrong-return", subject=sampler.name)
                raise TrainingError(problem)
            return sample

        return solve

    def with_batches(self, batches: Mapping[str, int]) -> RecipePlan:
        """The plan with the number of batches in an epoch of each step, once the datasets are open."""
        return evolve(self, steps=tuple(evolve(step, batches=batches[step.name]) for step in self.steps))
