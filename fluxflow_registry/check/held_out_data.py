"""Datasets that are held out of training, and measured on all the same after training on some of their samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from attrs import evolve

from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.plan.checked import ConfiguredComponent
from fluxflow_registry.recipe.schema import EvaluationEntry, StepEntry

#: Asks a component something: `attempt(what, where, call)` gives its answer, or None after telling how it fails.
Attempt = Callable[[str, Location, Callable[[], Problem | None]], Problem | None]


def overlapping(
    steps: Mapping[str, StepEntry], datasets: Mapping[str, ConfiguredComponent], attempt: Attempt
) -> Iterator[Problem]:
    """Each pair of datasets once, of which the one is measured where the other has been trained on."""
    told: set[tuple[str, str]] = set()
    for step in steps.values():
        for evaluation in step.evaluate.values():
            for trained in _trained(steps, step):
                pair = evaluation.settings.dataset, trained.settings.dataset
                if pair[0] == pair[1] or pair in told or not set(pair) <= set(datasets):
                    continue
                held, seen = datasets[pair[0]], datasets[pair[1]]
                found = _overlap(held, seen, attempt)
                if found is not None:
                    told.add(pair)
                    yield evolve(
                        found, where=held.where, notes=(*_notes(step, evaluation, trained, seen), *found.notes)
                    )


def _overlap(held: ConfiguredComponent, seen: ConfiguredComponent, attempt: Attempt) -> Problem | None:
    """What a held-out dataset says of one that is trained on; None where they are apart, or it cannot tell."""
    asked = getattr(held.instance, "overlap", None)
    if asked is None:
        return None
    what = f"`overlap` of dataset `{held.component.name}`"
    return attempt(what, held.where, lambda: asked(held.label, seen.label, seen.instance))


def _trained(steps: Mapping[str, StepEntry], last: StepEntry) -> Iterator[StepEntry]:
    """The steps that a model has been through at the end of one of them: its parents, and itself."""
    chain = [last]
    while (parent := steps.get(chain[-1].parent or "")) is not None and parent not in chain:
        chain.append(parent)
    return reversed(chain)


def _notes(
    step: StepEntry, evaluation: EvaluationEntry, trained: StepEntry, seen: ConfiguredComponent
) -> tuple[tuple[str, str], ...]:
    measured = f"evaluation `{evaluation.name}` of step `{step.name}` ({evaluation.node.at('dataset')})"
    return (
        ("trained on", f"`{seen.label}` ({seen.where}), in step `{trained.name}`"),
        ("measured in", measured),
    )
