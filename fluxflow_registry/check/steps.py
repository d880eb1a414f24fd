"""The steps of a recipe to plans: components, names, datasets, evaluations, and every problem of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from attrs import evolve

from fluxflow_registry.check.configure import Components, Configurator
from fluxflow_registry.check.declared_fields import declared_wrong
from fluxflow_registry.check.metric_directions import with_directions
from fluxflow_registry.check.metric_names import removed_losses, unknown_losses, unwatchable
from fluxflow_registry.contracts import BalancerExtras, Field, LossExtras
from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.plan.steps import EvaluationPlan, StepPlan
from fluxflow_registry.plan.updates import AtBatch, LossPlan, Start, UpdatePlan, WhenMet, plan_updates
from fluxflow_registry.plan.values import Request, World, resolve_values
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import ComponentEntry, EvaluationEntry, StepEntry, UpdateEntry
from fluxflow_registry.registry.signature import returns_tensor


class StepPlanner:
    """Plans one step after another, given what all steps share."""

    def __init__(self, configurator: Configurator, datasets: Components, shared: Components) -> None:
        self.configurator = configurator
        self.recipe = configurator.recipe
        self.datasets = datasets
        #: The values of all steps.
        self.shared = shared
        #: What every plan depends on could not be read: a plan would only repeat that.
        self.blind = bool(self.recipe.unread & {"models", "datasets", "sampler", "values"})

    def plan(self, step: StepEntry, index: int) -> StepPlan | None:
        """The plan of a step; None where what it depends on could not be read."""
        configurator, what = self.configurator, f" in step `{step.name}`"
        providers = configurator.values(step.values, self.shared, what)
        fields = self._dataset_fields(step.settings.dataset, step.node)
        updates = [self._update(update, what) for update in step.updates.values()]
        until = configurator.configure("transition", step.until, what) if step.until else None
        metric = partial(configurator.registry.get, "metric")
        step, updates, until = with_directions(step, updates, until, metric, configurator.attempt)
        self._check_averages(step)
        self._report(unwatchable(step, until, updates, configurator.watched, self._measured))
        evaluations = {name: self._evaluation(step, each, providers) for name, each in step.evaluate.items()}
        if fields is None or self.blind:
            return None
        world = self._world(fields, providers, step.settings.dataset, step.values)
        values, planned, problems = plan_updates(world, updates, step.name)
        self._report(problems)
        present = {name: evaluation for name, evaluation in evaluations.items() if evaluation is not None}
        return StepPlan(step, index, until, providers, fields, values, planned, present)

    def fields(self, name: str, where: Location) -> Mapping[str, Field] | None:
        """The fields of a dataset; None after reporting what is wrong with it."""
        if name in self.datasets:
            dataset = self.datasets[name]
            what = f"`fields` of dataset `{dataset.name}`"
            declared = self.configurator.attempt(what, dataset.where, lambda: (dataset.instance.fields(),))
            problems = [problem for fields in declared or () for problem in declared_wrong(dataset, fields)]
            self._report(problems)
            return None if declared is None or problems else dict(declared[0])
        if name not in self.recipe.datasets and "datasets" not in self.recipe.unread:
            message = f"`{name}` is not a dataset of the recipe"
            self._report([Problem(message, where, code="unknown-name", subject=name, choices=self.recipe.datasets)])
        return None

    def _report(self, problems: Iterable[Problem]) -> None:
        self.configurator.problems.extend(problems)

    def _update(self, update: UpdateEntry, what: str) -> UpdatePlan:
        """An update with its components; the problems of those that are missing are reported."""
        context = f"{what}, update `{update.name}`"

        def component(kind: str, entry: ComponentEntry | None) -> Any:
            return self.configurator.configure(kind, entry, context) if entry else None

        balancer = component("balancer", update.balancer)
        if balancer is not None:
            extras, removed = BalancerExtras.of(balancer.instance), removed_losses(update)
            spared = [label for label in self.configurator.names(balancer, extras.spared) if label not in removed]
            named = [*self.configurator.names(balancer, extras.losses), *spared]
            self._report(unknown_losses(update, balancer, named))
        losses = {label: self._loss(entry, update, context) for label, entry in update.losses.items()}
        return UpdatePlan(
            entry=update,
            optimizer=component("optimizer", update.optimizer),
            scheduler=component("scheduler", update.scheduler),
            balancer=balancer,
            losses={label: loss for label, loss in losses.items() if loss is not None},
            start=self._start(update, update.settings.start, "", context),
        )

    def _loss(self, entry: ComponentEntry, update: UpdateEntry, context: str) -> LossPlan | None:
        component = self.configurator.look_up("loss", entry, context)
        if component is None:
            return None
        settings, weight = entry.settings, entry.settings.weight
        if weight is None:  # of the instance, since a field without `ClassVar` is an option
            what, default = f"`default_weight` of loss `{component.name}`", LossExtras.of(component.instance)
            weight = self.configurator.attempt(what, component.where, lambda: float(default.default_weight)) or 0.0
        return LossPlan(
            component=component,
            weight=float(weight),
            warmup=settings.warmup,
            every=settings.every,
            start=self._start(update, settings.start, entry.label, context),
            detached=frozenset(settings.detach),
        )

    def _start(self, update: UpdateEntry, batch: int, label: str, context: str) -> Start:
        entry = update.starts.get(label)
        condition = self.configurator.configure("transition", entry, context) if entry else None
        return AtBatch(batch) if condition is None else WhenMet(condition)

    def _evaluation(self, step: StepEntry, evaluation: EvaluationEntry, providers: Components) -> EvaluationPlan | None:
        what = f" in evaluation `{evaluation.name}` of step `{step.name}`"
        metrics = self.configurator.configure_all("metric", evaluation.metrics, what)
        name = evaluation.settings.dataset
        fields = self._dataset_fields(name, evaluation.node)
        if fields is None or self.blind:
            return None
        requests = [Request.by(f"metric `{label}`{what}", metric) for label, metric in metrics.items()]
        values, problems = resolve_values(self._world(fields, providers, name, step.values), requests)
        self._report(problems)
        return EvaluationPlan(evaluation, metrics, values)

    def _dataset_fields(self, name: str, node: Node) -> Mapping[str, Field] | None:
        """The fields of the dataset that a step or an evaluation names; a missing name is reported already."""
        named = node.get("dataset")
        return None if named is None or named.value != name else self.fields(name, named.where)

    def _world(self, fields: Iterable[str], providers: Components, dataset: str, own: Iterable[str]) -> World:
        """The names of a step; `own` are the values that it declares itself."""
        world = World.of(
            fields,
            self.recipe.models,
            providers,
            sampler=self.recipe.sampler is not None,
            image_size="image" in fields,
            dataset=f"dataset `{dataset}`",
        )
        declared = {*self.recipe.values, *own}
        registered = frozenset(self.configurator.registry.components["value"])
        known = set(providers)
        unset, contested = registered - declared - known, self.configurator.registry.claims("value")
        return evolve(world, unread=frozenset(declared - known), unset=unset, contested=contested)

    def _check_averages(self, step: StepEntry) -> None:
        trained = {model for update in step.updates.values() for model in update.settings.trains}
        if not step.updates or any(update.partial for update in step.updates.values()):
            return
        for index, model in enumerate(step.settings.ema.models if step.settings.ema else []):
            if model not in trained:
                message = f"step `{step.name}` averages `{model}`, but none of its updates trains that model"
                where = step.node.at("ema", "models", index)
                self._report([Problem(message, where, code="unused", subject=model, choices=trained)])

    def _measured(self, evaluation: EvaluationEntry) -> list[str] | None:
        """The metrics of an evaluation by label; None where one may return a dict of metrics."""
        components = [self.configurator.registry.get("metric", entry.type) for entry in evaluation.metrics.values()]
        single = all(component is not None and returns_tensor(component.factory) for component in components)
        return list(evaluation.metrics) if single else None
