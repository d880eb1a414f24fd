"""One pass over every plan on the meta device: shapes are proven before a weight is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from fluxflow_registry.check.checker import CheckedStep, ConfiguredComponent, RecipePlan
from fluxflow_registry.contracts import Field, variants
from fluxflow_registry.engine.graph.backward import Term
from fluxflow_registry.engine.graph.loss_gradients import LossGradients
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.engine.graph.tensors import describe, tensors
from fluxflow_registry.engine.graph.values import Values, bind, raised_at
from fluxflow_registry.engine.models.build import build_model
from fluxflow_registry.engine.models.frozen import trained_parameters
from fluxflow_registry.engine.models.options import useless_options
from fluxflow_registry.engine.preflight.suggested_fixes import Change, fitting, notes_on
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.engine.training.update import splits_in, stage_of, stages, weigher_of
from fluxflow_registry.errors import FluxflowError, Location, Problem, RecipeError, one_line
from fluxflow_registry.plan.updates import LossPlan, UpdatePlan
from fluxflow_registry.plan.values import Value
from fluxflow_registry.recipe.load import unique

META = torch.device("meta")

#: What to tell someone whose component asks for numbers while only shapes are proven.
WITHOUT_NUMBERS = "shapes are proven without numbers: no `.item()`, `float()` or `if tensor` in a component"


@frozen
class Misfit:
    """What cannot be computed from shapes: the problem, what it needs, and how many things were computed before it."""

    problems: tuple[Problem, ...]
    #: What a component raised, where one did.
    error: BaseException | None
    needs: tuple[Value, ...]
    before: int


def prove_shapes(checked: RecipePlan) -> dict[str, dict[str, str]]:
    """Compute every value and loss of every step from shapes alone; raises RecipeError with what does not fit.

    Gives the shapes of each step's values, for `--explain` and `--check`.
    """
    models = _on_meta(checked.models)
    problems = [problem for name, model in checked.models.items() for problem in useless_options(models[name], model)]
    shapes: dict[str, dict[str, str]] = {}
    for step in checked.steps:
        stuck = list(unready_losses(step))
        problems += [*untrainable(step, models), *stuck, *unready(step)]
        if stuck:  # they would say it again, each in its own words
            continue
        for fields in variants(step.fields):
            with warnings.catch_warnings(record=True) as said:
                found = _prove_step(step, fields, models, checked.solver)
            if isinstance(found, Misfit):  # what torch warned of before says less
                problems += _told(checked, step, fields, found)
                break  # the other forms would only say it again
            for each in said:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            shapes.setdefault(step.name, found)
    if problems:
        raise RecipeError(unique(problems))
    return shapes


def _on_meta(models: Mapping[str, ConfiguredComponent]) -> dict[str, nn.Module]:
    with META:
        return {name: build_model(model) for name, model in models.items()}


def _told(checked: RecipePlan, step: CheckedStep, fields: Mapping[str, Field], misfit: Misfit) -> Iterator[Problem]:
    """A misfit in a user's words, with the options of models that would mend it."""
    number = variants(step.fields).index(fields)
    form = f" where {_form(fields, step.fields)}" if number else ""
    places = checked.recipe.node.value["models"].keys
    raised = misfit.error is not None
    involved = {name: checked.models[name] for name in sorted({name for need in misfit.needs for name in need.models})}
    changes = _mending(checked, step, fields, misfit, involved)
    asked = [places[need.name] for need in misfit.needs if need.source == "model"]
    standing = [change.where(checked) for change in changes] or asked
    for problem in misfit.problems:
        where = problem.where if problem.where and not changes else [*standing, step.step.where][0]
        stated = [("loss in", problem.where)] if problem.where and where != problem.where else []
        models = [(f"model {name}", f"{places[name]}  {model.component.name}") for name, model in involved.items()]
        notes = (*notes_on(changes), *stated, *problem.notes, *(models if raised else ()))
        yield Problem(f"in step `{step.name}`{form}, {problem.message}", where, notes)


def _mending(
    checked: RecipePlan,
    step: CheckedStep,
    fields: Mapping[str, Field],
    misfit: Misfit,
    models: Mapping[str, ConfiguredComponent],
) -> list[Change]:
    """The changes to models with which what failed can be computed, where its shapes may be to blame."""
    told = str(misfit.error)
    if not isinstance(misfit.error, (RuntimeError, ValueError, Warning)) or "meta tensors" in told:
        return []

    def prove(
        changed: Mapping[str, ConfiguredComponent], which: CheckedStep, form: Mapping[str, Field]
    ) -> Misfit | None:
        found = _prove_step(which, form, _on_meta({**checked.models, **changed}), checked.solver)
        return found if isinstance(found, Misfit) else None

    def farther(changed: Mapping[str, ConfiguredComponent]) -> bool:
        left = prove(changed, step, fields)
        return left is None or left.before > misfit.before

    def wholly(changed: Mapping[str, ConfiguredComponent]) -> bool:
        return not any(prove(changed, each, form) for each in checked.steps for form in variants(each.fields))

    with warnings.catch_warnings(action="ignore"):
        return fitting(models, told, farther, wholly)


def untrainable(step: CheckedStep, models: Mapping[str, nn.Module]) -> Iterator[Problem]:
    """Models that an update trains although their builders have frozen all of them."""
    for update in step.updates.values():
        for index, name in enumerate(update.trains):
            if not any(parameter.requires_grad for parameter in models[name].parameters()):
                who = f"update `{update.name}` of step `{step.name}`"
                message = f"{who} trains `{name}`, whose builder has frozen all of it"
                yield Problem(message, step.step.updates[update.name].node.at("trains", index))


def unready_losses(step: CheckedStep) -> Iterator[Problem]:
    """What losses that need files say of them, at the places in the recipe that ask for these losses."""
    for update in step.updates.values():
        for label, loss in update.losses.items():
            yield from _unready(f"loss `{label}` of update `{update.name}` in step `{step.name}`", loss)


def unready(step: CheckedStep) -> Iterator[Problem]:
    """What metrics that need files say of them: they may look at numbers, so they are not proven without any."""
    for name, evaluation in step.evaluations.items():
        for label, metric in evaluation.metrics.items():
            yield from _unready(f"metric `{label}` of evaluation `{name}` in step `{step.name}`", metric)


def _unready(who: str, configured: ConfiguredComponent) -> Iterator[Problem]:
    try:
        getattr(configured.instance, "ready", lambda: None)()
    except FluxflowError as error:
        for problem in error.problems:
            yield Problem(f"{who}: {problem.message}", configured.where, problem.notes)


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


def _form(fields: Mapping[str, Field], usual: Mapping[str, Field]) -> str:
    """Which of its forms a batch has: the shapes that vary."""
    return " and ".join(f"`{name}` is {list(fields[name].shape or ())}" for name in fields if usual[name].also)


@contextmanager
def _unchanged(values: Values, who: str, defined: Location, where: Location) -> Iterator[None]:
    """Hold that a component leaves what it is given as it is: others are given the same tensors."""
    before = _versions(values)
    yield
    after = _versions(values)
    changed = [f"`{name}`" for name, version in before.items() if after[name] != version]
    if changed:
        message = f"{who} changes {', '.join(changed)} in place, which others are given too"
        hint = ("instead", "make a new tensor: `x = x * 2`, not `x *= 2` or `x.mul_(2)`")
        raise RecipeError(Problem(message, where, (("defined in", str(defined)), hint)))


def _versions(values: Values) -> dict[str, list[int]]:
    """How often each tensor of a value was changed in place."""
    return {name: [tensor._version for tensor in tensors(kept.whole)] for name, kept in values.kept.items()}


def _prove_balancer(step: CheckedStep, update: UpdatePlan, values: Values, losses: Mapping[str, Tensor]) -> None:
    """Make the balancer, which may ask for a parameter that is not there, or that a loss does not reach."""
    checked = step.updates[update.name]
    gradients = LossGradients(trained_parameters(values.models, checked.trains), checked, update)
    weigher_of(checked, gradients)
    splits = stages(step.plan, update)
    plans = {loss.label: loss for loss in update.losses}
    terms = {
        label: Term(value, plans[label].detach, stage_of(list(splits), plans[label].closure))
        for label, value in losses.items()
    }
    gradients.of(terms, splits_in(splits, values), {}, None)
    gradients.reached()


def _prove_step(
    step: CheckedStep, fields: Mapping[str, Field], models: Mapping[str, nn.Module], sampler: Any
) -> dict[str, str] | Misfit:
    """The shapes of a step's values for one form of its batches, or the first thing that cannot be computed."""
    values = Values(step.plan.values, step.providers, models, Draws(META), step.plan.splits)
    batch = example(fields, step.step.settings.batch_size, META)
    values.begin(batch, step_batch=0, image_size=size_of(batch), sampler=sampler)
    shapes: dict[str, str] = {}
    begun: list[Iterable[str]] = []  # the needs of each thing that is computed, in turn
    try:
        for update in step.plan.updates:
            for name in [name for name in update.order if name not in values.kept]:
                begun.append(values.plan[name].needs.values())
                with _unchanged(values, f"value `{name}`", values.bindings[name].where, step.providers[name].where):
                    values.compute([name], update.carries)
            shapes.update({name: describe(values.kept[name].whole) for name in update.order})
            losses = {}
            for loss in update.losses:
                begun.append(loss.needs.values())
                losses[loss.label] = _prove_loss(step, update, loss, values)
            _prove_balancer(step, update, values, losses)
            values.forget(update.stale)
    except FluxflowError as error:
        needs = tuple(values.plan[name] for name in (begun[-1] if begun else ()))
        return Misfit(error.problems, error.__cause__, needs, len(begun))
    return shapes


def _prove_loss(step: CheckedStep, update: UpdatePlan, loss: LossPlan, values: Values) -> Tensor:
    """Compute a loss; raises RecipeError where it cannot be, or gives what no loss is."""
    configured = step.updates[update.name].losses[loss.label]
    where = configured.component.signature.where
    binding = bind(loss.label, loss.needs, configured.instance, values.plan, where)
    arguments = values.arguments(binding, update.trains)
    given = tuple((f"given {name}", describe(value)) for name, value in arguments.items())
    try:
        with _unchanged(values, f"loss `{loss.label}` of update `{update.name}`", where, configured.where):
            result = binding.call(**arguments)
    except RecipeError:
        raise
    except Exception as error:
        message = f"loss `{loss.label}` of update `{update.name}` cannot be computed: {one_line(error)}"
        hint = (("without numbers", WITHOUT_NUMBERS),) if "meta tensors" in str(error) else ()
        notes = (("defined in", str(where)), *raised_at(error), *given, *hint)
        raise RecipeError(Problem(message, configured.where, notes)) from error
    if not isinstance(result, Tensor) or result.ndim:
        found = describe(result) if isinstance(result, Tensor) else type(result).__name__
        message = f"loss `{loss.label}` gives {found}; a loss is a 0-d tensor"
        raise RecipeError(Problem(message, configured.where, (("defined in", str(where)), *given)))
    if not result.requires_grad:
        message = f"loss `{loss.label}` carries no gradient: something in it detaches what it was given"
        raise RecipeError(Problem(message, configured.where, (("defined in", str(where)), *given)))
    return result
