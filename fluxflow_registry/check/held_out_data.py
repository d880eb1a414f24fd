"""Datasets that are held out of training, and yet measured after training on some of their samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from fluxflow_registry.contracts import DatasetExtras
from fluxflow_registry.errors import Location, Parts, Problem
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.recipe.schema import EvaluationEntry, StepEntry

#: Calls a component: `attempt(what, where, call)` returns its answer, or None after reporting how it fails.
Attempt = Callable[[str, Location, Callable[[], Problem | None]], Problem | None]


def overlapping(
    steps: Mapping[str, StepEntry], datasets: Mapping[str, ConfiguredComponent], attempt: Attempt
) -> Iterator[Problem]:
    """Each pair of datasets once, of which one is measured after training on the other, and which share samples."""
    reported: set[tuple[str, str]] = set()
    for step in steps.values():
        for evaluation in step.evaluate.values():
            for trained in _lineage(steps, step):
                pair = evaluation.settings.dataset, trained.settings.dataset
                if pair[0] == pair[1] or pair in reported or not set(pair) <= set(datasets):
                    continue
                held_out, seen = datasets[pair[0]], datasets[pair[1]]
                found = _overlap(held_out, seen, attempt)
                if found is not None:
                    reported.add(pair)
                    notes = (*_notes(step, evaluation, trained, seen), *found.notes)
                    parts: Parts = {"code": found.code, "subject": seen.label, "choices": found.choices}
                    yield Problem(found.message, held_out.where, notes, **parts)


def _overlap(held_out: ConfiguredComponent, seen: ConfiguredComponent, attempt: Attempt) -> Problem | None:
    """The problem of a held-out dataset with one that is trained on; None where they are disjoint, or unknown to be."""
    overlap = DatasetExtras.of(held_out.instance).overlap
    what = f"`overlap` of dataset `{held_out.name}`"
    return attempt(what, held_out.where, lambda: overlap(held_out.label, seen.label, seen.instance))


def _lineage(steps: Mapping[str, StepEntry], last: StepEntry) -> Iterator[StepEntry]:
    """The steps that a model has been through at the end of one of them: its ancestors, and itself."""
    chain = [last]
    while (parent := steps.get(chain[-1].parent or "")) is not None and parent not in chain:
        chain.append(parent)
    return reversed(chain)


def _notes(
    step: StepEntry, evaluation: EvaluationEntry, trained: StepEntry, seen: ConfiguredComponent
) -> tuple[tuple[str, str], ...]:
    measured = f"evaluation `{evaluation.name}` of step `{step.name}` ({evaluation.node.at('dataset')})"
    return (("see also", f"step `{trained.name}` trains on `{seen.label}` ({seen.where})"), ("requested by", measured))
