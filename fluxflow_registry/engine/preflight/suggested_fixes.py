"""Which option of a model to change where models do not fit each other: tried on the meta device, not guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
from attrs import evolve, frozen

from fluxflow_registry.check.checker import ConfiguredComponent, RecipePlan
from fluxflow_registry.errors import Location
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

#: Changes that are tried at most: each costs a pass over the plan of a step.
TRIALS = 40

#: Models with other options, by name; and whether with them more can be computed, and all that is to be.
Models = Mapping[str, ConfiguredComponent]
Trial = Callable[[Models], bool]


@frozen
class Change:
    """A whole-number option of a model that would be what the option `like` of another model is."""

    model: str
    option: attrs.Attribute[Any]
    value: int
    like: str

    @property
    def path(self) -> str:
        """The option as `--set` takes it."""
        return f"models.{self.model}.{key_of(self.option)}"

    def where(self, checked: RecipePlan) -> Location:
        """Where the recipe states the option, or the model where it does not."""
        return checked.models[self.model].entry.node.at(key_of(self.option))  # type: ignore[union-attr]

    def applied(self, models: Models) -> dict[str, ConfiguredComponent]:
        """The models with this change; raises whatever its validators raise."""
        configured = models[self.model]
        instance = evolve(configured.instance, **{self.option.alias or self.option.name: self.value})
        return {**models, self.model: evolve(configured, instance=instance)}


def fitting(models: Models, told: str, farther: Trial, wholly: Trial) -> list[Change]:
    """The changes with which what failed can be computed; of them those with which all can, where there are any.

    `told` is what was raised: numbers in it say which options without a like name are worth a trial.
    """
    numbers = set(map(int, re.findall(r"\d+", told)))
    unlike = [change for change in changes(models, like_names=False) if _now(models, change) in numbers]
    found = [change for change in list(changes(models))[:TRIALS] if _helps(change, models, farther)]
    found = found or [change for change in unlike[:TRIALS] if _helps(change, models, farther)]
    return [change for change in found if _helps(change, models, wholly)] or found


def changes(models: Models, like_names: bool = True) -> Iterator[Change]:
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
    """Whether two options may mean one thing: `width` of a text encoder is `text_width` of who reads from it."""
    return name == other or name.endswith(f"_{other}") or other.endswith(f"_{name}")


def _rank(models: Models, model: str, key: str, its: tuple[str, attrs.Attribute[Any]]) -> int:
    """0 where the longer of two like names begins with a word for the other model, 1 if they are one name, else 2."""
    other, name = its[0], key_of(its[1])
    longer, shorter, owner = (key, name, other) if len(key) > len(name) else (name, key, model)
    words = {*owner.split("_"), *models[owner].component.name.split("_")}
    if longer.endswith(f"_{shorter}") and longer.removesuffix(f"_{shorter}") in words:
        return 0
    return 1 if key == name else 2


def _now(models: Models, change: Change) -> int:
    return int(getattr(models[change.model].instance, change.option.name))


def _helps(change: Change, models: Models, trial: Trial) -> bool:
    try:
        return trial(change.applied(models))
    except Exception:  # a value that the model itself refuses is no help
        return False


def notes_on(changes: Iterable[Change]) -> list[tuple[str, str]]:
    """What to tell of them: `models.expander.latent_channels: 8, as models.compressor.latent_channels is`."""
    labels = ["it fits with", *["or with"] * TRIALS]
    return [
        (label, f"`{change.path}: {change.value}`, as `{change.like}` is")
        for label, change in zip(labels, changes, strict=False)
    ]
