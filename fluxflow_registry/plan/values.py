"""Values by name: what provides each, what it needs in turn, in which order they can be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import Factory, define, frozen

from fluxflow_registry.contracts import CONTEXT
from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.plan.component import ConfiguredComponent

#: Names of the engine that need something in the recipe, and how to add it.
_CONDITIONAL = {
    "sampler": "add `sampler: {type: ...}` to the recipe; `--list-plugins sampler` lists the types",
    "image_size": "use a dataset with a field `image`",
}


@frozen
class World:
    """Every name that exists in a step, an evaluation or a preview: batch fields, models, context, values.

    The world is closed: any other name is an error and never a new input.
    """

    fields: frozenset[str]
    models: frozenset[str]
    context: frozenset[str]
    providers: Mapping[str, ConfiguredComponent]
    #: For messages: the dataset whose fields these are.
    dataset: str = "the dataset"
    #: Values whose declaration in the recipe is wrong: that is reported already, and nothing follows from it.
    unread: frozenset[str] = frozenset()
    #: Registered values with required options that the recipe does not set.
    unset: frozenset[str] = frozenset()
    #: Values that several plugins register, so that none provides them: where each of these defines it.
    contested: Mapping[str, tuple[str, ...]] = Factory(dict)

    @classmethod
    def of(
        cls,
        fields: Iterable[str],
        models: Iterable[str],
        providers: Mapping[str, ConfiguredComponent],
        *,
        sampler: bool,
        image_size: bool,
        dataset: str = "the dataset",
    ) -> World:
        """The world where the recipe has a sampler or not, and where the size of images is known or not."""
        absent = {name for name, there in (("sampler", sampler), ("image_size", image_size)) if not there}
        return cls(frozenset(fields), frozenset(models), frozenset(CONTEXT) - absent, providers, dataset)

    def sources(self, name: str) -> list[str]:
        """What provides `name`, in a user's words; more than one is a conflict."""
        found = []
        if name in self.fields:
            found.append(f"a field of {self.dataset}")
        if name in self.models:
            found.append("a model of the recipe")
        if name in self.context:
            found.append("the engine itself")
        if name in self.providers:
            found.append(f"a value ({self.providers[name].component.signature.where})")
        return found

    @property
    def names(self) -> set[str]:
        """All names that can be requested."""
        return {*self.fields, *self.models, *self.context, *self.providers}


@frozen
class Request:
    """A request for values: by a loss, a metric, an observer or a command."""

    who: str
    needs: Mapping[str, str]
    where: Location
    #: The component behind the request, where there is one.
    component: ConfiguredComponent | None = None

    @classmethod
    def by(cls, who: str, component: ConfiguredComponent) -> Request:
        """The request for everything that a component needs."""
        return cls(who, component.needs, component.where, component)

    @classmethod
    def of(
        cls, who: str, names: Iterable[str], where: Location, component: ConfiguredComponent | None = None
    ) -> Request:
        """A request for values by name."""
        return cls(who, {name: name for name in names}, where, component)


@frozen
class ValuePlan:
    """A planned value: what provides it, what fills its parameters, which models and values are upstream."""

    name: str
    source: Literal["field", "model", "context", "value"]
    needs: Mapping[str, str] = Factory(dict)
    models: frozenset[str] = frozenset()
    upstream: frozenset[str] = frozenset()
    #: The provider of a computed value.
    component: ConfiguredComponent | None = None

    @property
    def provider(self) -> ConfiguredComponent:
        """The provider of a computed value; fields, models and context have none."""
        assert self.component is not None
        return self.component


@define
class _Search:
    world: World
    found: dict[str, ValuePlan]
    problems: list[Problem]
    failed: set[str]


@frozen
class _Requester:
    """The request, or the last of the values on the way from it, whose parameter is to be filled."""

    request: Request
    chain: tuple[str, ...]
    component: ConfiguredComponent | None
    parameter: str

    @property
    def who(self) -> str:
        return f"`{self.chain[-1]}`" if self.chain else self.request.who

    @property
    def where(self) -> Location:
        renamed = self.component.renamed_at(self.parameter) if self.component is not None else None
        return renamed or self.request.where

    @property
    def wants_model(self) -> bool:
        return self.component is not None and self.parameter in self.component.component.signature.models

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """The definition that requests the value, and the way from the recipe to it."""
        notes = []
        if self.component is not None:
            notes.append(("defined in", self.component.definition))
        if self.chain:
            notes.append(("requested by", " -> ".join((self.request.who, *(f"`{name}`" for name in self.chain)))))
        return tuple(notes)


def resolve_values(world: World, requests: Iterable[Request]) -> tuple[dict[str, ValuePlan], list[Problem]]:
    """All values that the requests need, each after what it needs itself, and a problem for every name that fails."""
    search = _Search(world, {}, [], set())
    for request in requests:
        for parameter, name in request.needs.items():
            _visit(search, name, _Requester(request, (), request.component, parameter))
    return search.found, search.problems


def _visit(search: _Search, name: str, requester: _Requester) -> None:
    world = search.world
    if name in search.found or name in search.failed:
        return
    if name not in world.unread and name not in requester.chain and len(world.sources(name)) == 1:
        if name in world.providers:
            _visit_value(search, world.providers[name], requester)
        elif name in world.models:
            search.found[name] = ValuePlan(name, "model", models=frozenset({name}))
        else:
            search.found[name] = ValuePlan(name, "field" if name in world.fields else "context")
        return
    search.failed.add(name)
    if name not in world.unread:
        search.problems.append(_problem(world, name, requester))


def _visit_value(search: _Search, provider: ConfiguredComponent, requester: _Requester) -> None:
    models: set[str] = set()
    upstream: set[str] = set()
    for parameter, need in provider.needs.items():
        _visit(search, need, _Requester(requester.request, (*requester.chain, provider.label), provider, parameter))
        if need not in search.found:
            search.failed.add(provider.label)
            continue
        models |= search.found[need].models
        upstream |= {need} | search.found[need].upstream
    if provider.label not in search.failed:
        search.found[provider.label] = ValuePlan(
            provider.label, "value", provider.needs, frozenset(models), frozenset(upstream), provider
        )


def _problem(world: World, name: str, requester: _Requester) -> Problem:
    """Why a requested name cannot be resolved."""
    who, where, notes = requester.who, requester.where, requester.notes
    sources = world.sources(name)
    if name in requester.chain:
        loop = " -> ".join((*requester.chain[requester.chain.index(name) :], name))
        return Problem(f"values depend on each other: {loop}", where, notes, code="cycle", subject=name)
    if len(sources) > 1:
        message = f"`{name}` has two providers: {' and '.join(sources)}"
        return Problem(message, where, notes, code="duplicate-name", subject=name)
    if requester.wants_model:
        message = f"{who} requests the model `{name}`, but the recipe declares no such model"
        hint = ("hint", f"declare it under `models`: `{name}: {{type: ...}}`; `--list-plugins model` lists the types")
        return Problem(message, where, (*notes, hint), code="missing-model", subject=name, choices=world.models)
    if name in _CONDITIONAL:
        message = f"{who} requests `{name}`, but the recipe does not provide it"
        return Problem(message, where, (*notes, ("hint", _CONDITIONAL[name])), code="missing-value", subject=name)
    if name in world.unset:
        message = f"{who} requests `{name}`, whose required options the recipe does not set"
        hint = ("hint", f"set them under `values`: `{name}: {{...}}`; `--describe value:{name}` lists them")
        return Problem(message, where, (*notes, hint), code="missing-options", subject=name)
    if name in world.contested:
        message = f"{who} requests `{name}`, which is registered by two plugins: remove one of them"
        claims = tuple(("defined in", claim) for claim in world.contested[name])
        return Problem(message, where, (*notes, *claims), code="duplicate-name", subject=name)
    message = f"{who} requests `{name}`, but nothing provides it"
    return Problem(message, where, notes, code="unknown-value", subject=name, choices=world.names)
