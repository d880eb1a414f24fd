"""Everything that is tried before training, in the same way by `--check` and by training itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from attrs import evolve, frozen
from torch import nn

from fluxflow_registry.contracts import SamplerExtras, Source, Stateful
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.declared import Declared
from fluxflow_registry.engine.data.opening import merge_problems, open_sources
from fluxflow_registry.engine.data.order import first_bucket, with_batches
from fluxflow_registry.engine.memory import require_batches, require_models
from fluxflow_registry.engine.models.build import build_on_meta
from fluxflow_registry.engine.preflight.draws import try_draws
from fluxflow_registry.engine.preflight.metrics import SAMPLES, try_metrics
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.preflight.transitions import try_transitions
from fluxflow_registry.engine.preflight.updates import try_updates
from fluxflow_registry.engine.training.component_state import stateful_of
from fluxflow_registry.errors import DataError, FluxflowError, Problem, RecipeError, TrainingError, one_line
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.signature import fields_of, is_configurable
from fluxflow_registry.state.store import pack


@frozen(eq=False)
class Tried:
    """What was found on the way: models on the meta device, the shapes of each step's values, opened datasets."""

    models: Mapping[str, nn.Module]
    shapes: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, Source]


def try_everything(plan: RecipePlan, device: torch.device) -> Tried:
    """Try what training will do, as far as it can be done without training; raises FluxflowError with what fails.

    Components that keep something between batches are left as they were.
    """
    _require_saved_states(plan)
    with _undisturbed(plan), _before_training():
        require_batches(plan)
        models = build_on_meta(plan.models)
        shapes = prove_shapes(plan, models)
        require_models(plan, models, device)
        sources = open_sources(plan)
        _read(plan, sources)
        try_updates(with_batches(plan, sources), models, device)
        try_transitions(plan)
        quick = _with_few_evaluations(plan)
        try_metrics(quick, sources, models)
        try_draws(quick, sources, models)
    return Tried(models, shapes, sources)


@contextmanager
def _before_training() -> Iterator[None]:
    """Let what fails end a command as any other mistake that is found before training."""
    try:
        yield
    except TrainingError as error:
        error.exit_code = FluxflowError.exit_code
        raise


def _read(plan: RecipePlan, sources: Mapping[str, Source]) -> None:
    """Read the first samples of each dataset; raises DataError where that fails, or they are not as declared."""
    wrong: dict[str, Sequence[Problem]] = {}
    for name, source in sources.items():
        order = first_bucket(source)
        try:
            Reader(source, order, 0, Declared(name, plan.fields(name))).read(0, min(SAMPLES, len(order)))
        except DataError as error:
            wrong[name] = error.problems
    if wrong:
        raise DataError(merge_problems(wrong, plan.datasets))


def _with_few_evaluations(plan: RecipePlan) -> RecipePlan:
    """The plan whose sampler evaluates the velocity twice, where that is its option: shapes do not depend on it."""
    sampler = plan.sampler
    steps = SamplerExtras.of(sampler.instance).steps if sampler is not None else None
    if sampler is None or steps is None or not is_configurable(sampler.component.factory):
        return plan
    if "steps" not in {option.name for option in fields_of(sampler.component.factory)}:
        return plan
    try:
        instance = evolve(sampler.instance, steps=min(steps, 2))
    except Exception:  # it needs more
        return plan
    return evolve(plan, sampler=evolve(sampler, instance=instance))


def _require_saved_states(plan: RecipePlan) -> None:
    """Raise RecipeError for components that keep what no checkpoint can have."""
    problems: dict[int, Problem] = {}
    for step in plan.steps:
        for name, part in step.components.items():
            what, notes = f"{part.component.kind} `{part.name}`", (("defined in", part.definition),)
            try:
                pack(part.instance.state_dict() if isinstance(part.instance, Stateful) else {}, what)
            except FluxflowError as error:
                first = error.problems[0]
                problems[id(part.instance)] = evolve(first, where=part.where, notes=(*first.notes, *notes))
            except Exception as error:
                message = f"`state_dict` of {what} failed: {one_line(error)}"
                problems[id(part.instance)] = Problem(message, part.where, notes, code="component-failed", subject=name)
    if problems:
        raise RecipeError(list(problems.values()))


@contextmanager
def _undisturbed(plan: RecipePlan) -> Iterator[None]:
    """Restore what components keep: a run starts with the state in which they were built."""
    stateful = {id(each): each for step in plan.steps for each in stateful_of(step).values()}
    states = [(each, copy.deepcopy(dict(each.state_dict()))) for each in stateful.values()]
    try:
        yield
    finally:
        for each, state in states:
            each.load_state_dict(state)
