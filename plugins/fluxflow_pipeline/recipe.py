"""A FluxFlow configuration as a recipe, every value with the place in the configuration from which it comes."""

from __future__ import annotations

from attrs import frozen

from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.recipe.load import unique
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import VERSION

from .config import Config
from .datasets import datasets
from .draft import Piece, component, entry, mapping, said
from .models import auto_created, models
from .observers import idle_samples, observers
from .rules import broken, idle
from .steps import step_of
from .writing import text_of

#: Guidance of the pictures that are drawn while a flow is trained, where captions were dropped.
GUIDANCE = 5.0

#: Settings that stand under `defaults` where all steps agree on them.
_SHARED = ("dataset", "batch_size", "workers", "max_steps", "precision", "accumulate", "log_every", "checkpoint_every")


@frozen(eq=False)
class Translation:
    """What a configuration says, and the recipe that says the same."""

    config: Config
    root: Node
    #: What the user should know.
    notes: tuple[Problem, ...]

    @property
    def text(self) -> str:
        """The recipe as a file."""
        told = [f"What {self.config.path} says, as a recipe.", ""]
        told += [f"  fluxflow-run {self.config.name}.recipe.yaml"]
        created = [f"{note.message}" for note in self.notes if note.message.startswith("Auto-created")]
        return text_of(self.root, "\n".join([*told, *([""] if created else []), *created]))


def translate(config: Config, diagrams: bool = False) -> Translation:
    """The recipe of a configuration; raises RecipeError with every rule that the configuration breaks.

    With `diagrams` the run draws graphs of its figures, as it does where the configuration asks for them.
    """
    problems = unique(broken(config))
    if problems:
        raise RecipeError(problems)
    steps = {step.name: step_of(config, step) for step in config.steps}
    shared = _agreed(steps) if len(steps) > 1 else {}
    values = _values(config, steps)
    steps = {name: _without(piece, shared, values) for name, piece in steps.items()}
    where = config.steps[0].where
    flow = any(step.flow for step in config.steps)
    root = entry(
        where,
        recipe=said(VERSION, where),
        name=said(config.name, where),
        models=models(config),
        datasets=datasets(config),
        sampler=component("euler", where, steps=said(30, where)) if flow else None,
        values=mapping(where, values) if values else None,
        observers=observers(config, diagrams),
        defaults=mapping(where, shared) if shared else None,
        steps=mapping(where, dict(steps)),
    )
    notes = [*config.notes, *auto_created(config), *idle(config), *idle_samples(config)]
    return Translation(config, root, tuple(dict.fromkeys(notes)))


def _agreed(steps: dict[str, Piece]) -> dict[str, Node | None]:
    """The settings on which all steps agree."""
    found: dict[str, Node | None] = {}
    for key in _SHARED:
        stated = [piece.get(key) for piece in steps.values()]
        first = stated[0]
        if first is not None and all(each is not None and each.value == first.value for each in stated):
            found[key] = first
    return found


def _values(config: Config, steps: dict[str, Piece]) -> dict[str, Node | None]:
    """The options of values on which all steps agree that have any, and the guidance of the drawn pictures."""
    stated: dict[str, list[Node]] = {}
    for piece in steps.values():
        own = piece.get("values")
        for name, child in own.value.items() if own is not None else ():
            stated.setdefault(name, []).append(child)
    found: dict[str, Node | None] = {
        name: each[0] for name, each in stated.items() if all(one.plain() == each[0].plain() for one in each)
    }
    guided = next((step for step in config.steps if step.flow and step.settings.cfg_dropout_prob > 0), None)
    if guided is not None:
        where = guided.keys.where("cfg_dropout_prob")
        found["generated_image"] = entry(where, guidance=said(GUIDANCE, where))
    return found


def _without(piece: Piece, shared: dict[str, Node | None], values: dict[str, Node | None]) -> Piece:
    """A step without what stands above it for all."""
    children: dict[str, Node | None] = {key: child for key, child in piece.value.items() if key not in shared}
    own = piece.get("values")
    if own is not None:
        rest = {name: child for name, child in own.value.items() if name not in values}
        children["values"] = mapping(own.where, rest) if rest else None
    return mapping(piece.where, children)
