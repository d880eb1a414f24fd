"""Values by name: who provides each, what it needs in turn, in which order they can be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import Factory, define, frozen

from fluxflow_registry.errors import Location, Problem, choices
from fluxflow_registry.registry.signature import Signature


@frozen
class Provider:
    """What provides a value: a registered component's signature, and the recipe's renamings."""

    name: str
    signature: Signature
    renames: Mapping[str, str] = Factory(dict)
    #: Where the recipe states each renaming.
    places: Mapping[str, Location] = Factory(dict)

    @property
    def needs(self) -> dict[str, str]:
        """For each parameter, the name of the value that fills it."""
        return {need: self.renames.get(need, need) for need in self.signature.needs}


@frozen
class World:
    """Every name that exists in a step: batch fields, models, the engine's own, and providers.

    The world is closed: a name that is none of these is an error and never a new input.
    """

    fields: frozenset[str]
    models: frozenset[str]
    context: frozenset[str]
    providers: Mapping[str, Provider]
    #: For messages: the dataset whose fields these are.
    dataset: str = "the dataset"
    #: Values that the recipe declares, but wrongly: that has been told, and nothing follows from it.
    unread: frozenset[str] = frozenset()
    #: Names that exist only once the recipe states something, and what that is.
    absent: Mapping[str, str] = Factory(dict)
    #: Registered values that have options which the recipe must state and does not.
    unset: frozenset[str] = frozenset()

    def sources(self, name: str) -> list[str]:
        """Who provides `name`, in a user's words; more than one is a clash."""
        told = []
        if name in self.fields:
            told.append(f"a field of {self.dataset}")
        if name in self.models:
            told.append("a model of the recipe")
        if name in self.context:
            told.append("the engine itself")
        if name in self.providers:
            told.append(f"a value ({self.providers[name].signature.where})")
        return told

    @property
    def names(self) -> set[str]:
        """All names that can be asked for."""
        return {*self.fields, *self.models, *self.context, *self.providers}


@frozen
class Ask:
    """Somebody who wants values: a loss, a metric, an observer, a command."""

    who: str
    provider: Provider
    where: Location


@frozen
class Missing(Problem):
    """The problem that a name is asked for and not there: which, and whether it is to be a model of the recipe."""

    name: str = ""
    model: bool = False


Source = Literal["field", "model", "context", "value"]


@frozen
class Value:
    """A resolved name: where it comes from, what fills its parameters, which models lie upstream."""

    name: str
    source: Source
    needs: Mapping[str, str] = Factory(dict)
    models: frozenset[str] = frozenset()
    upstream: frozenset[str] = frozenset()


@define
class _Search:
    world: World
    found: dict[str, Value]
    problems: list[Problem]
    failed: set[str]


def resolve(world: World, asks: Iterable[Ask]) -> tuple[dict[str, Value], list[Problem]]:
    """All values that the asks need, each after what it needs itself, and every name that fails."""
    search = _Search(world, {}, [], set())
    for ask in asks:
        for parameter, name in ask.provider.needs.items():
            _visit(search, name, ask, parameter, ())
    return search.found, search.problems


def _visit(search: _Search, name: str, ask: Ask, parameter: str, chain: tuple[str, ...]) -> None:
    """Resolve `name`, wanted as `parameter` by the last of `chain` (or by the ask itself)."""
    world = search.world
    if name in search.found or name in search.failed:
        return
    if name in world.unread:
        search.failed.add(name)
        return
    where = _asker(world, ask, chain)[1].places.get(parameter, ask.where)
    if name in chain:
        loop = " -> ".join((*chain[chain.index(name) :], name))
        search.failed.add(name)
        search.problems.append(Problem(f"values need each other: {loop}", where, _chain(world, ask, chain)))
        return
    sources = world.sources(name)
    if len(sources) > 1:
        search.failed.add(name)
        search.problems.append(
            Problem(f"`{name}` has two providers: {' and '.join(sources)}", where, _chain(world, ask, chain))
        )
        return
    if name in world.fields:
        search.found[name] = Value(name, "field")
    elif name in world.models:
        search.found[name] = Value(name, "model", models=frozenset({name}))
    elif name in world.context:
        search.found[name] = Value(name, "context")
    elif name in world.providers:
        _visit_value(search, world.providers[name], ask, chain)
    else:
        search.failed.add(name)
        search.problems.append(_unknown(world, name, ask, parameter, chain, where))


def _visit_value(search: _Search, provider: Provider, ask: Ask, chain: tuple[str, ...]) -> None:
    models: set[str] = set()
    upstream: set[str] = set()
    for parameter, need in provider.needs.items():
        _visit(search, need, ask, parameter, (*chain, provider.name))
        if need not in search.found:
            search.failed.add(provider.name)
            continue
        models |= search.found[need].models
        upstream |= {need} | search.found[need].upstream
    if provider.name not in search.failed:
        search.found[provider.name] = Value(
            provider.name, "value", provider.needs, frozenset(models), frozenset(upstream)
        )


def _asker(world: World, ask: Ask, chain: tuple[str, ...]) -> tuple[str, Provider]:
    return (f"`{chain[-1]}`", world.providers[chain[-1]]) if chain else (ask.who, ask.provider)


def _chain(world: World, ask: Ask, chain: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Notes: the definition that asks, and the way from the recipe to it."""
    _, provider = _asker(world, ask, chain)
    notes = [("asked in", f"{provider.signature.where}  {provider.signature.text}")]
    if chain:
        notes.append(("on the way", " -> ".join((ask.who, *(f"`{name}`" for name in chain)))))
    return tuple(notes)


def _unknown(world: World, name: str, ask: Ask, parameter: str, chain: tuple[str, ...], where: Location) -> Missing:
    who, provider = _asker(world, ask, chain)
    notes = _chain(world, ask, chain)
    if parameter in provider.signature.models:
        message = f"{who} asks for the model `{name}`, which the recipe does not declare"
        hint = ("declare it", f"under `models`: `{name}: {{type: ...}}`; `--list-plugins model` shows the types")
        return Missing(message, where, (*notes, *choices(name, world.models, "models"), hint), name, model=True)
    if name in world.absent:
        message = f"{who} asks for `{name}`, which the recipe does not state"
        return Missing(message, where, (*notes, ("state it", world.absent[name])), name)
    if name in world.unset:
        message = f"{who} asks for `{name}`, which has options that the recipe must state"
        hint = ("state them", f"under `values`: `{name}: {{...}}`; `--describe value:{name}` shows them")
        return Missing(message, where, (*notes, hint), name)
    message = f"{who} asks for `{name}`, which nothing provides"
    return Missing(message, where, (*notes, *choices(name, world.names)), name)
