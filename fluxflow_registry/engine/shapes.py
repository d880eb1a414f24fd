"""One pass over every plan on the meta device: shapes are proven before a weight is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.check import Checked, CheckedStep, CheckedUpdate
from fluxflow_registry.contracts import Field, variants
from fluxflow_registry.engine.gradients import LossGradients
from fluxflow_registry.engine.held import trained_parameters
from fluxflow_registry.engine.randomness import Draws
from fluxflow_registry.engine.run import made_model
from fluxflow_registry.engine.settings import useless_settings
from fluxflow_registry.engine.step import size_of
from fluxflow_registry.engine.tensors import describe, tensors
from fluxflow_registry.engine.turn import weigher_of
from fluxflow_registry.engine.values import Values, bind, raised_at
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError, one_line

#: What to tell someone whose component asks for numbers while only shapes are proven.
WITHOUT_NUMBERS = "shapes are proven without numbers: no `.item()`, `float()` or `if tensor` in a component"


def prove_shapes(checked: Checked) -> dict[str, dict[str, str]]:
    """Compute every value and loss of every step from shapes alone; raises RecipeError with what does not fit.

    Gives the shapes of each step's values, for `--explain` and `--check`.
    """
    meta = torch.device("meta")
    with meta:
        models = {name: made_model(model) for name, model in checked.models.items()}
    problems = [problem for name, model in checked.models.items() for problem in useless_settings(models[name], model)]
    for step in checked.steps:
        problems += [*untrainable(step, models), *unready(step)]
    shapes: dict[str, dict[str, str]] = {}
    for step in checked.steps:
        for number, fields in enumerate(variants(step.fields)):
            values = Values(step.plan.values, step.providers, models, Draws(meta))
            try:
                found = _prove_step(step, fields, values, meta, checked.solver)
            except FluxflowError as error:
                form = f" where {_form(fields, step.fields)}" if number else ""
                for problem in error.problems:
                    message = f"in step `{step.name}`{form}, {problem.message}"
                    problems.append(Problem(message, problem.where or step.step.where, problem.notes))
                break  # the other forms would only say it again
            shapes.setdefault(step.name, found)
    if problems:
        raise RecipeError(problems)
    return shapes


def untrainable(step: CheckedStep, models: Mapping[str, nn.Module]) -> Iterator[Problem]:
    """Models that an update trains although their builders have frozen all of them."""
    for update in step.updates.values():
        for index, name in enumerate(update.trains):
            if not any(parameter.requires_grad for parameter in models[name].parameters()):
                who = f"update `{update.name}` of step `{step.name}`"
                message = f"{who} trains `{name}`, whose builder has frozen all of it"
                yield Problem(message, step.step.updates[update.name].node.at("trains", index))


def unready(step: CheckedStep) -> Iterator[Problem]:
    """What metrics that need files say of them: they may look at numbers, so they are not proven without any."""
    for name, evaluation in step.evaluations.items():
        for label, metric in evaluation.metrics.items():
            try:
                getattr(metric.instance, "ready", lambda: None)()
            except FluxflowError as error:
                for problem in error.problems:
                    message = f"metric `{label}` of evaluation `{name}` in step `{step.name}`: {problem.message}"
                    yield Problem(message, metric.where, problem.notes)


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
def _unchanged(values: Values, who: str, defined: str, where: str) -> Iterator[None]:
    """Hold that a component leaves what it is given as it is: others are given the same tensors."""
    before = _versions(values)
    yield
    after = _versions(values)
    changed = [f"`{name}`" for name, version in before.items() if after[name] != version]
    if changed:
        message = f"{who} changes {', '.join(changed)} in place, which others are given too"
        hint = ("instead", "make a new tensor: `x = x * 2`, not `x *= 2` or `x.mul_(2)`")
        raise RecipeError(Problem(message, where, (("defined in", defined), hint)))


def _versions(values: Values) -> dict[str, list[int]]:
    """How often each tensor of a value was changed in place."""
    return {name: [tensor._version for tensor in tensors(kept.whole)] for name, kept in values.kept.items()}


def _prove_balancer(update: CheckedUpdate, values: Values) -> None:
    """Make the balancer, which may ask for a parameter by a name that is not there."""
    named = trained_parameters(values.models, update.trains)
    weigher_of(update, LossGradients(named, update.balancer.where if update.balancer else ""))


def _prove_step(
    step: CheckedStep, fields: Mapping[str, Field], values: Values, device: torch.device, sampler: Any
) -> dict[str, str]:
    batch = example(fields, step.step.settings.batch_size, device)
    values.begin(batch, step_batch=0, image_size=size_of(batch), sampler=sampler)
    shapes: dict[str, str] = {}
    for update in step.plan.updates:
        for name in [name for name in update.order if name not in values.kept]:
            with _unchanged(values, f"value `{name}`", values.bindings[name].where, step.providers[name].where):
                values.compute([name], update.carries)
        shapes.update({name: describe(values.kept[name].whole) for name in update.order})
        _prove_balancer(step.updates[update.name], values)
        for loss in update.losses:
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
                notes = (("defined in", where), *raised_at(error), *given, *hint)
                raise RecipeError(Problem(message, configured.where, notes)) from error
            if not isinstance(result, Tensor) or result.ndim:
                found = describe(result) if isinstance(result, Tensor) else type(result).__name__
                message = f"loss `{loss.label}` gives {found}; a loss is a 0-d tensor"
                raise RecipeError(Problem(message, configured.where, (("defined in", where), *given)))
            if not result.requires_grad:
                message = f"loss `{loss.label}` carries no gradient: something in it detaches what it was given"
                raise RecipeError(Problem(message, configured.where, (("defined in", where), *given)))
    return shapes
