"""A FluxFlow configuration as a recipe, each value with its location in the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from fluxflow_registry import Problem
from fluxflow_registry.commands import RECIPE_VERSION, Node, as_node, raise_problems

from ..config.config import Config, trains_flow
from ..config.rules import idle_settings
from .models import auto_created, datasets, models, skipped_sizes
from .observers import idle_samples, observers
from .optimizers import idle_options
from .recipe_text import component, entry, text_of
from .steps import step_of

#: Guidance of the images that are generated while a flow is trained with dropped captions; otherwise there is none.
GUIDANCE = 5.0

#: Settings that move to `defaults` if all steps agree on them.
_SHARED = ("dataset", "batch_size", "workers", "max_steps", "precision", "accumulate", "log_every", "checkpoint_every")


@frozen(eq=False)
class Translation:
    """A configuration, and the recipe that means the same."""

    config: Config
    recipe: Node
    #: What the user should know.
    notes: tuple[Problem, ...]

    @property
    def text(self) -> str:
        """The recipe as a file."""
        head = [f"Translated from {self.config.path}", "", f"  fluxflow-run {self.config.name}.recipe.yaml"]
        created = [note.message for note in self.notes if note.code == "auto-created"]
        return text_of(self.recipe, "\n".join([*head, *([""] if created else []), *created]))


def translate(config: Config, diagrams: bool = False) -> Translation:
    """The recipe of a configuration; raises RecipeError with every problem of it.

    With `diagrams` the run writes charts, as it does if the configuration requests them.
    """
    raise_problems(config.problems)
    notes = [
        *config.notes,
        *auto_created(config),
        *idle_settings(config),
        *idle_options(config),
        *skipped_sizes(config),
        *idle_samples(config),
    ]
    return Translation(config, recipe_of(config, diagrams), tuple(dict.fromkeys(notes)))


def recipe_of(config: Config, diagrams: bool = False) -> Node:
    """The recipe of a configuration that has steps; what has problems is in it with its default."""
    steps = {step.name: step_of(config, step) for step in config.steps}
    shared = _agreed(steps) if len(steps) > 1 else {}
    values = _shared_values(config, steps)
    where = config.steps[0].where
    return entry(
        where,
        recipe=RECIPE_VERSION,
        name=config.name,
        models=models(config),
        datasets=datasets(config),
        sampler=component("euler", where, steps=30) if any(map(trains_flow, config.steps)) else None,
        values=entry(where, **values) if values else None,
        observers=observers(config, diagrams),
        defaults=entry(where, **shared) if shared else None,
        steps=entry(where, **{name: _without(step, shared, values) for name, step in steps.items()}),
    )


def _agreed(steps: Mapping[str, Node]) -> dict[str, Node]:
    """The settings on which all steps agree."""
    found = {}
    for key in _SHARED:
        nodes = [step.get(key) for step in steps.values()]
        first = nodes[0]
        if first is not None and all(node is not None and node.value == first.value for node in nodes):
            found[key] = first
    return found


def _shared_values(config: Config, steps: Mapping[str, Node]) -> dict[str, Node]:
    """The options of values on which all steps with such a value agree, and the guidance of the generated images."""
    options: dict[str, list[Node]] = {}
    for step in steps.values():
        for name, child in step.under("values").items():
            options.setdefault(name, []).append(child)
    found = {
        name: nodes[0] for name, nodes in options.items() if all(node.plain() == nodes[0].plain() for node in nodes)
    }
    flows = [step for step in config.steps if trains_flow(step)]
    guided = [step for step in flows if step.settings.cfg_dropout_prob > 0]
    for first in (guided or flows)[:1]:
        guidance = GUIDANCE if guided else 1.0
        found["generated_image"] = entry(first.keys.where("cfg_dropout_prob"), guidance=guidance)
    return found


def _without(step: Node, shared: Mapping[str, Node], values: Mapping[str, Node]) -> Node:
    """A step without the settings that all steps share."""
    children = step.without(shared).value
    own = step.get("values")
    if own is not None:
        rest = own.without(values)
        children = {**children, "values": as_node(rest.value, own.where) if rest.value else None}
    return entry(step.where, **children)
