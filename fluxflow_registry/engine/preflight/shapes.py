"""One pass over every plan on the meta device: shapes are proven, and options that would make them fit are found."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import attrs
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from fluxflow_registry.check.configure import Components
from fluxflow_registry.contracts import Field, Prepared, Sampler, variants
from fluxflow_registry.engine.graph.broadcasting import compared_alike
from fluxflow_registry.engine.graph.calls import describe
from fluxflow_registry.engine.graph.losses import LiveLosses
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.engine.graph.side_effects import unchanged
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.engine.models.build import (
    build_on_meta,
    frozen_parameters,
    require_gradients,
    trained_parameters,
    useless_options,
)
from fluxflow_registry.engine.preflight.averages import uncopied
from fluxflow_registry.engine.preflight.compiled import guard_as_compiled, never_called
from fluxflow_registry.engine.preflight.image_sizes import FittingSizes, sizes_that_fit
from fluxflow_registry.engine.preflight.untrained import untrained
from fluxflow_registry.engine.training.loss_weights import LossWeights
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.errors import FluxflowError, Location, Problem, RecipeError, unique
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.values import ValuePlan
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

#: Changes that are tried at most: each costs a pass over the plan of a step.
TRIALS = 40

#: Whether more can be computed, or everything, with models that have other options.
Trial = Callable[[Components], bool]

META = torch.device("meta")

#: The hint for a component that reads numbers while only shapes are checked.
WITHOUT_NUMBERS = "remove `.item()`, `float()` and `if tensor` from the component: shapes are checked without data"


@frozen
class Misfit:
    """The first thing of a step that cannot be computed from shapes."""

    problems: tuple[Problem, ...]
    #: What a component raised, where one did.
    error: BaseException | None
    needs: tuple[ValuePlan, ...]
    #: How many values and losses were computed before it.
    before: int


def prove_shapes(plan: RecipePlan, models: Mapping[str, nn.Module] | None = None) -> dict[str, dict[str, str]]:
    """Compute every value and loss of every step from shapes alone; raises RecipeError with what does not fit.

    `models` are those of the plan on the meta device, where they are built. Returns the shapes of each step's values.
    """
    models = build_on_meta(plan.models) if models is None else models
    called = guard_as_compiled(models, plan.models)
    problems = [problem for name, model in plan.models.items() for problem in useless_options(models[name], model)]
    problems += _shared(plan, models)
    shapes: dict[str, dict[str, str]] = {}
    for step in plan.steps:
        unready = list(_unready_losses(step))
        problems += [*_untrainable(step, models), *unready, *_unready_metrics(step)]
        if unready:  # computing them would repeat it
            continue
        for fields in variants(step.fields):
            with warnings.catch_warnings(record=True) as caught:
                found = _prove_step(step, fields, models, plan.solver)
            if isinstance(found, Misfit):  # the warnings of torch before it are less specific
                problems += _misfit_problems(plan, step, fields, found)
                break  # the other forms would only repeat it
            for each in caught:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            shapes.setdefault(step.name, found)
    if not problems:
        problems += [*never_called(plan, called), *uncopied(plan, models), *untrained(plan)]
    if problems:
        raise RecipeError(unique(problems))
    return shapes


def _shared(plan: RecipePlan, models: Mapping[str, nn.Module]) -> Iterator[Problem]:
    """Models that have a parameter of another one: two optimizers would move it."""
    owners: dict[int, str] = {}
    for name, model in models.items():
        for key, parameter in model.named_parameters():
            owner = owners.setdefault(id(parameter), name)
            if owner != name:
                message = f"models `{owner}` and `{name}` share `{key}`: each builder must return a module of its own"
                configured = plan.models[name]
                notes = (("defined in", configured.definition),)
                yield Problem(message, configured.where, notes, code="wrong-return", subject=name)
                break


def _misfit_problems(
    plan: RecipePlan, step: StepPlan, fields: Mapping[str, Field], misfit: Misfit
) -> Iterator[Problem]:
    """A misfit in a user's words, with the options of models that would fix it."""
    number = variants(step.fields).index(fields)
    varying = [f"`{name}` is {list(fields[name].shape or ())}" for name in fields if step.fields[name].also]
    form = f" where {' and '.join(varying)}" if number else ""
    places = plan.recipe.node.value["models"].keys
    involved = {name: plan.models[name] for name in sorted({name for need in misfit.needs for name in need.models})}
    sizes = _fitting_sizes(plan, step, fields, misfit)
    changes = _changes(plan, step, fields, misfit, involved) if sizes is None else []
    models = [places[need.name] for need in misfit.needs if need.source == "model"]
    places_to_change = [change.where(plan) for change in changes] or models
    hints = [f"set `{each.path}: {each.value}`, the value of `{each.like}`" for each in changes]
    hints += [WITHOUT_NUMBERS] if _reads_numbers(misfit.error) else []
    if sizes is not None:
        label = step.settings.dataset
        hint, place = sizes.hint(label, plan.datasets[label], (fields["image"].shape or ())[-1])
        hints, places_to_change = [hint], [place] if place else models
    using = [("see also", f"model {name}: {places[name]}  {model.name}") for name, model in involved.items()]
    using = using if misfit.error is not None else []
    for problem in misfit.problems:
        where = problem.where if problem.where and not (changes or sizes) else [*places_to_change, step.entry.where][0]
        moved = [("requested by", str(problem.where))] if problem.where and where != problem.where else []
        notes = (*(("hint", hint) for hint in hints), *moved, *problem.notes, *using)
        message = f"in step `{step.name}`{form}, {problem.message}"
        yield evolve(problem, message=message, where=where, notes=notes)


def _reads_numbers(error: BaseException | None) -> bool:
    """Whether torch reports that a number was read on the meta device."""
    return "meta tensors" in str(error)


def _fitting_sizes(
    plan: RecipePlan, step: StepPlan, fields: Mapping[str, Field], misfit: Misfit
) -> FittingSizes | None:
    """The sizes of images with which what failed can be computed, where their size may be to blame."""
    if not _is_about_shapes(misfit.error):
        return None
    models = build_on_meta(plan.models)

    def fits(resized: Mapping[str, Field]) -> bool:
        left = _prove_step(step, resized, models, plan.solver)
        return not isinstance(left, Misfit) or left.before > misfit.before

    def fits_everywhere(resized: Mapping[str, Field]) -> bool:
        steps = [each for each in plan.steps if each.settings.dataset == step.settings.dataset]
        return not any(isinstance(_prove_step(each, resized, models, plan.solver), Misfit) for each in steps)

    with warnings.catch_warnings(action="ignore"):
        return sizes_that_fit(fields, fits_everywhere) or sizes_that_fit(fields, fits)


def _is_about_shapes(error: BaseException | None) -> bool:
    return isinstance(error, (RuntimeError, ValueError, Warning)) and not _reads_numbers(error)


def _changes(
    plan: RecipePlan,
    step: StepPlan,
    fields: Mapping[str, Field],
    misfit: Misfit,
    models: Mapping[str, ConfiguredComponent],
) -> list[Change]:
    """The changes to models with which what failed can be computed, where its shapes may be to blame."""
    if not _is_about_shapes(misfit.error):
        return []

    def prove(changed: Components, which: StepPlan, form: Mapping[str, Field]) -> Misfit | None:
        found = _prove_step(which, form, build_on_meta({**plan.models, **changed}), plan.solver)
        return found if isinstance(found, Misfit) else None

    def gets_further(changed: Components) -> bool:
        left = prove(changed, step, fields)
        return left is None or left.before > misfit.before

    def fits_everywhere(changed: Components) -> bool:
        return not any(prove(changed, each, form) for each in plan.steps for form in variants(each.fields))

    with warnings.catch_warnings(action="ignore"):
        return suggested_changes(models, str(misfit.error), gets_further, fits_everywhere)


def _untrainable(step: StepPlan, models: Mapping[str, nn.Module]) -> Iterator[Problem]:
    """Models that an update trains although their builders have frozen all of them."""
    for update in step.updates.values():
        for index, name in enumerate(update.trains):
            parameters = {key for key, _ in models[name].named_parameters()}
            if parameters <= frozen_parameters(models[name]):
                why = "its builder freezes all parameters" if parameters else "it has no parameters"
                message = f"update `{update.name}` of step `{step.name}` trains model `{name}`, but {why}"
                yield Problem(message, update.entry.node.at("trains", index), code="unused", subject=name)


def _unready_losses(step: StepPlan) -> Iterator[Problem]:
    """What losses that need files report, at the places in the recipe that name these losses."""
    for update in step.updates.values():
        for label, loss in update.losses.items():
            yield from _unready(f"{update.title(label)} in step `{step.name}`", loss.component)


def _unready_metrics(step: StepPlan) -> Iterator[Problem]:
    """What metrics that need files report; metrics may read numbers, so they are not proven here."""
    for name, evaluation in step.evaluations.items():
        for label, metric in evaluation.metrics.items():
            yield from _unready(f"metric `{label}` of evaluation `{name}` in step `{step.name}`", metric)


def _unready(who: str, configured: ConfiguredComponent) -> Iterator[Problem]:
    try:
        Prepared.of(configured.instance).ready()
    except FluxflowError as error:
        for problem in error.problems:
            yield evolve(problem, message=f"{who}: {problem.message}", where=configured.where)


def example(fields: Mapping[str, Field], batch_size: int, device: torch.device) -> dict[str, Any]:
    """A batch with the declared shapes and nothing in it."""
    batch: dict[str, Any] = {}
    for name, field in fields.items():
        if field.shape is None:
            batch[name] = ["a caption"] * batch_size
        else:
            dtype = getattr(torch, field.dtype)
            batch[name] = torch.empty((batch_size, *field.shape), dtype=dtype, device=device)
    return batch


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of this shape and type without numbers."""
    return torch.empty_like(tensor, device=META)


def _prove_step(
    step: StepPlan, fields: Mapping[str, Field], models: Mapping[str, nn.Module], sampler: Sampler | None
) -> dict[str, str] | Misfit:
    """The shapes of a step's values for one form of its batches, or the first thing that cannot be computed."""
    for name, model in models.items():
        require_gradients(model, name in step.trains)
        model.train(name in step.trains)
    values = Values(step.values, models, Draws(META), step.detached)
    batch = example(fields, step.settings.batch_size, META)
    values.begin(batch, step_batch=0, image_size=size_of(batch), sampler=sampler)
    shapes: dict[str, str] = {}
    computed: list[ConfiguredComponent] = []  # each thing that is computed, in order

    def guarded(who: str, component: ConfiguredComponent) -> AbstractContextManager[None]:
        computed.append(component)
        present = {name: kept.whole for name, kept in values.kept.items()}
        return unchanged(who, component, present, models)

    try:
        for update in step.updates.values():
            for name in [name for name in update.order if name not in values.kept]:
                with guarded(f"value `{name}`", step.values[name].provider):
                    values.compute([name], update.carries)
            shapes.update({name: describe(values.kept[name].whole) for name in update.order})
            losses = LiveLosses(step, update, values)
            terms = {}
            for loss in losses.all:
                who, component = update.title(loss.label), loss.plan.component
                with guarded(who, component), compared_alike(who, component, _inputs(values, component)):
                    terms[loss.label] = loss.term(losses.compute(loss))
            # A balancer may require a parameter that does not exist, or that a loss does not reach.
            weights = LossWeights(update, trained_parameters(models, update.trains))
            own = {label: loss.weight for label, loss in update.losses.items()}
            weights.gradients.use(terms, losses.cuts(), own, None)
            weights.gradients.check_reached()
            weights.check_weigher()
            values.forget(update.stale)
    except FluxflowError as error:
        needs = [step.values[name] for each in computed[-1:] for name in each.needs.values()]
        problems = [_with_definition(problem, computed[-1]) if computed else problem for problem in error.problems]
        return Misfit(tuple(problems), error.__cause__, tuple(needs), len(computed))
    return shapes


def _inputs(values: Values, component: ConfiguredComponent) -> Iterator[tuple[str, Any]]:
    """What a component may receive, with its history and without."""
    for name in component.needs.values():
        if name in values.kept:
            yield from ((name, values.kept[name].whole), (name, values.kept[name].bare))


def _with_definition(problem: Problem, component: ConfiguredComponent) -> Problem:
    """The problem with the definition of the component that was computed, where it has none."""
    if problem.where is not None or any(label == "defined in" for label, _ in problem.notes):
        return problem
    return evolve(problem, notes=(*problem.notes, ("defined in", component.definition)))


@frozen
class Change:
    """An integer option of a model that would take the value of the option `like` of another model."""

    model: str
    option: attrs.Attribute[Any]
    value: int
    like: str

    @property
    def path(self) -> str:
        """The option as `--set` takes it."""
        return f"models.{self.model}.{key_of(self.option)}"

    def where(self, plan: RecipePlan) -> Location:
        """Where the recipe sets the option, or the model where it does not."""
        model = plan.models[self.model]
        return model.entry.node.at(key_of(self.option)) if model.entry else model.where


def suggested_changes(models: Components, error: str, gets_further: Trial, fits_everywhere: Trial) -> list[Change]:
    """The changes with which what failed can be computed; of them those with which all can, where there are any.

    Options without a similar name are tried only where the error that was raised contains both numbers, the one that
    is set and the one that would fit: any number that happens to fit is not what was meant, and 1 always is among them.
    """
    numbers = set(map(int, re.findall(r"\d+", error)))
    unlike = [
        change
        for change in changes(models, like_names=False)
        if change.value > 1 and {getattr(models[change.model].instance, change.option.name), change.value} <= numbers
    ]
    found = [change for change in list(changes(models))[:TRIALS] if _helps(change, models, gets_further)]
    found = found or [change for change in unlike[:TRIALS] if _helps(change, models, gets_further)]
    return [change for change in found if _helps(change, models, fits_everywhere)] or found


def changes(models: Components, like_names: bool = True) -> Iterator[Change]:
    """Each option of each model that could take the value of another model's, once for each value.

    Of several options that have the value, it is like the one that is the most surely its counterpart.
    """
    for model, configured in models.items():
        for option in _numbers(configured):
            key, seen = key_of(option), {getattr(configured.instance, option.name)}
            others = [(name, its) for name in models if name != model for its in _numbers(models[name])]
            for other, its in sorted(others, key=partial(_rank, models, model, key)):
                value = getattr(models[other].instance, its.name)
                if value not in seen and _alike(key, key_of(its)) == like_names:
                    seen.add(value)
                    yield Change(model, option, value, f"models.{other}.{key_of(its)}")


def _numbers(configured: ConfiguredComponent) -> list[attrs.Attribute[Any]]:
    if not is_configurable(configured.component.factory) or configured.entry is None:
        return []
    options = fields_of(type(configured.instance))
    return [option for option in options if type(getattr(configured.instance, option.name)) is int]


def _alike(name: str, other: str) -> bool:
    """Whether two options may mean one thing: `width` of a text encoder is `text_width` of its readers."""
    return name == other or name.endswith(f"_{other}") or other.endswith(f"_{name}")


def _rank(models: Components, model: str, key: str, its: tuple[str, attrs.Attribute[Any]]) -> int:
    """0 where the longer of two like names begins with a word for the other model, 1 if they are one name, else 2."""
    other, name = its[0], key_of(its[1])
    longer, shorter, owner = (key, name, other) if len(key) > len(name) else (name, key, model)
    words = {*owner.split("_"), *models[owner].name.split("_")}
    if longer.endswith(f"_{shorter}") and longer.removesuffix(f"_{shorter}") in words:
        return 0
    return 1 if key == name else 2


def _helps(change: Change, models: Components, trial: Trial) -> bool:
    configured = models[change.model]
    try:
        instance = evolve(configured.instance, **{change.option.alias or change.option.name: change.value})
        return trial({**models, change.model: evolve(configured, instance=instance)})
    except Exception:  # a value that the model itself refuses is no help
        return False
