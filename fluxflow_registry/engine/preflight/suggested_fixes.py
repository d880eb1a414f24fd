"""Which option of a model to change where models do not fit each other: each change is tried on the meta device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
from attrs import evolve, frozen

from fluxflow_registry.errors import Location
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

#: Changes that are tried at most: each costs a pass over the plan of a step.
TRIALS = 40

#: Models with other options, by name; and whether with them more can be computed, or everything.
Models = Mapping[str, ConfiguredComponent]
Trial = Callable[[Models], bool]


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

    def applied(self, models: Models) -> dict[str, ConfiguredComponent]:
        """The models with this change; raises whatever its validators raise."""
        configured = models[self.model]
        instance = evolve(configured.instance, **{self.option.alias or self.option.name: self.value})
        return {**models, self.model: evolve(configured, instance=instance)}


def suggested_changes(models: Models, error: str, farther: Trial, wholly: Trial) -> list[Change]:
    """The changes with which what failed can be computed; of them those with which all can, where there are any.

    Numbers in the error that was raised say which options without a similar name are worth a trial.
    """
    numbers = set(map(int, re.findall(r"\d+", error)))
    unlike = [
        change
        for change in changes(models, like_names=False)
        if getattr(models[change.model].instance, change.option.name) in numbers
    ]
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
    words = {*owner.split("_"), *models[owner].name.split("_")}
    if longer.endswith(f"_{shorter}") and longer.removesuffix(f"_{shorter}") in words:
        return 0
    return 1 if key == name else 2


def _helps(change: Change, models: Models, trial: Trial) -> bool:
    try:
        return trial(change.applied(models))
    except Exception:  # a value that the model itself refuses is no help
        return False


def notes_on(changes: Iterable[Change]) -> list[tuple[str, str]]:
    """The changes as hints: `models.expander.latent_channels: 8`, the value of `models.compressor.latent_channels`."""
    return [("hint", f"set `{change.path}: {change.value}`, the value of `{change.like}`") for change in changes]
