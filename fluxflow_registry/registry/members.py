"""Misspelled or wrong members of a component, and hooks of an observer: they would silently do nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import attrs
import pluggy
from attrs import frozen

from fluxflow_registry.contracts import KINDS, Extras, Kind, Lifecycle
from fluxflow_registry.contracts.kind import TOGETHER
from fluxflow_registry.errors import Choices, PluginError, Problem, one_line, one_slip
from fluxflow_registry.registry.registry import Component
from fluxflow_registry.registry.signature import MAPPINGS, UNIONS, definition, describe_type, place_of, returned_class

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def component_problems(kind: Kind, what: str, component: Any) -> list[Problem]:
    """What is wrong with the members of a component, and of the class that its call is annotated to return."""
    problems = [*_Owner(component, what, kind.protocol, kind.extras, kind.events).problems()]
    built = returned_class(component) if kind.product else None
    if kind.product and built is not None:
        what = f"{kind.product.name} `{built.__name__}` of {what}"
        problems += _Owner(built, what, kind.product.protocol, kind.product.extras, complete=False).problems()
    return problems


def check_product(component: Component, built: Any) -> None:
    """Require that a source or a weigher has the members of one; raises PluginError."""
    product = KINDS[component.kind].product
    if product is not None:
        what = f"{product.name} `{type(built).__name__}` of {component.kind} `{component.name}`"
        problems = [*_Owner(built, what, product.protocol, product.extras).problems()]
        if problems:
            raise PluginError(problems)


@frozen
class _Owner:
    """A class, a function or an instance, and the members that it should have."""

    owner: Any
    what: str
    protocol: type
    extras: type[Extras]
    events: type | None = None
    #: Whether a missing required member is an error: a class may set it in `__init__`.
    complete: bool = True

    def problems(self) -> Iterator[Problem]:
        required, events, own = _methods(self.protocol), _methods(self.events), _public(self.owner)
        expected = {**self.extras.members(), **required, **events}
        meant = {}
        for name, (member, level) in own.items():
            if name not in expected:
                there = {other for other, (_, at) in own.items() if at <= max(level, 1)}
                slips = [other for other in expected if one_slip(name, other) and other not in there]
                near = [other for other in slips if _could_be(member, level > 0, expected[other], other in events)]
                meant.update(dict.fromkeys(near, name))
                if near:
                    yield self.misspelled(name, near, expected)
            elif name not in events:
                yield from self.mismatches(name, member, expected[name], level > 0)
        for name in required if self.complete else ():
            if not hasattr(self.owner, name) and name not in meant:
                yield self.problem(f"{self.what} has no method `{name}`", name, "missing-member")
        for pair in TOGETHER:
            present = [name for name in pair if name in own]
            if len(present) == 1 and set(pair) <= set(expected) and (self.complete or _is_method(expected[pair[0]])):
                (missing,) = {*pair} - {*present}
                if missing not in meant:
                    message = f"{self.what} has `{present[0]}` but not `{missing}`: each needs the other"
                    yield self.problem(message, present[0], "missing-member")

    def misspelled(self, name: str, near: list[str], expected: Mapping[str, Any]) -> Problem:
        message = f"`{name}` of {self.what} looks like a misspelling of `{near[0]}`"
        hint = ("hint", f"correct it, or rename a member of your own, for example to `_{name}`")
        choices = Choices(near[0], tuple(sorted(each for each in expected if each[0] != "_")))
        return self.problem(message, name, "misspelled-member", notes=(hint,), choices=choices)

    def mismatches(self, name: str, member: Any, expected: Any, of_class: bool) -> Iterator[Problem]:
        """Where a member is a method and should be an attribute, or the reverse, or has the wrong parameters."""
        who = f"`{name}` of {self.what}"
        if not _is_method(expected):
            if _is_method(member):
                yield self.problem(f"{who} must be an attribute or a property, not a method", name, "wrong-type")
            elif isinstance(member, (property, cached_property)) and name in _class_attributes(self.extras):
                yield self.problem(f"{who} must be an attribute of the class, not a property", name, "wrong-type")
            else:
                yield from self.wrong_value(name)
            return
        wanted = _parameters(expected)
        instead = (("instead", f"def {name}({', '.join(['self', *wanted])})"),)
        if not _is_method(member):
            yield self.problem(f"{who} must be a method", name, "wrong-type", notes=instead)
            return
        found = _wrong_parameters(member, of_class, wanted, free=expected.__code__.co_posonlyargcount > 0)
        if found is not None:
            message = f"{who} takes ({', '.join(found)}), but is called with ({', '.join(wanted)})"
            strays = [each for each in found if each not in wanted]
            choices = Choices.of(strays[0], wanted) if strays and wanted else None
            yield self.problem(message, name, "wrong-parameters", notes=instead, choices=choices)

    def wrong_value(self, name: str) -> Iterator[Problem]:
        """Where an attribute has a value of another type, or cannot be read; of a class, the value that it sets."""
        who = f"`{name}` of {self.what}"
        try:
            value = getattr(self.extras.of(self.owner), name)
        except Exception as error:
            yield self.problem(f"{who} failed: {one_line(error)}", name, "component-failed")
            return
        kind = _type_of(self.extras, name)
        if not _fits(value, kind):
            valid = [each for part in (kind, *get_args(kind)) if get_origin(part) is Literal for each in get_args(part)]
            message = f"{who} must be {describe_type(kind)}, got {value!r}"
            yield self.problem(message, name, "wrong-type", choices=Choices.of(str(value), valid) if valid else None)

    def problem(self, message: str, name: str, code: str, **parts: Any) -> Problem:
        where = place_of(self.owner, name) or place_of(type(self.owner))
        return Problem(message, where, code=code, subject=name, **parts)


def value_problems(kind: Kind, what: str, instance: Any) -> list[Problem]:
    """What is wrong with the optional attributes that options may set: those that are not read from the class."""
    owner, of_class = _Owner(instance, what, kind.protocol, kind.extras), _class_attributes(kind.extras)
    names = [name for name, member in kind.extras.members().items() if not _is_method(member)]
    return [problem for name in names if name not in of_class for problem in owner.wrong_value(name)]


def _type_of(extras: type[Extras], name: str) -> Any:
    """The type of an optional attribute; Any where its annotation is for type checkers alone."""
    base = next(base for base in extras.__mro__ if name in inspect.get_annotations(base))
    own = {"__annotations__": {name: inspect.get_annotations(base)[name]}, "__module__": base.__module__}
    try:
        kind = get_type_hints(type("", (), own))[name]
    except NameError:
        return Any
    return get_args(kind)[0] if get_origin(kind) is ClassVar else kind


#: The classes of the values of a plain type: numbers of numpy are numbers too.
_PLAIN = {bool: bool, int: Integral, float: Real, str: str, type(None): type(None)}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; only plain values, and mappings of them, are compared."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(isinstance(value, type(each)) and value == each for each in parts)
    if origin in UNIONS:
        return any(_fits(value, each) for each in parts)
    if origin in MAPPINGS:
        return isinstance(value, Mapping) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    return kind not in _PLAIN or (isinstance(value, _PLAIN[kind]) and (kind is bool or not isinstance(value, bool)))


def _methods(cls: type | None) -> dict[str, Any]:
    """The methods of a protocol or of the events that a component must or may have, by name."""
    found = {name: member for name, member in vars(cls).items() if inspect.isfunction(member)} if cls else {}
    return {name: member for name, member in found.items() if name in ("__len__", "__call__") or name[0] != "_"}


def _public(owner: Any) -> dict[str, tuple[Any, int]]:
    """The public members of a class, a function or an instance, and how far up its classes each is defined."""
    cls = owner if inspect.isclass(owner) else type(owner)
    own = {} if inspect.isclass(owner) else getattr(owner, "__dict__", {})
    levels = [own, *map(vars, cls.__mro__[:-1])]
    if attrs.has(cls):  # without slots, fields are in no class
        levels[1] = {**{each.name: None for each in attrs.fields(cls)}, **vars(cls)}
    found: dict[str, tuple[Any, int]] = {}
    for level, members in enumerate(levels):
        for name, member in members.items():
            if not name.startswith("_"):
                found.setdefault(name, (member, level))
    return found


def _is_method(member: Any) -> bool:
    return isinstance(member, (staticmethod, classmethod)) or (callable(member) and not inspect.isclass(member))


def _parameters(method: Any) -> list[str]:
    """The parameters of a method but `self`."""
    return list(inspect.signature(method).parameters)[1:]


def _could_be(member: Any, of_class: bool, known: Any, event: bool) -> bool:
    """Whether a member of nearly the same name could stand for the known one; else it is one of the plugin's own."""
    if not (_is_method(member) and _is_method(known)):
        return _is_method(member) == _is_method(known)
    if event:  # a hook takes any of the arguments
        return {*_parameters(member)} <= {*_parameters(known)}
    return _wrong_parameters(member, of_class, _parameters(known), free=True) is None


def _class_attributes(extras: type[Extras]) -> set[str]:
    hints = {name: hint for base in extras.__mro__ for name, hint in inspect.get_annotations(base).items()}
    return {name for name, hint in hints.items() if str(hint).startswith("ClassVar")}


def _wrong_parameters(member: Any, of_class: bool, wanted: list[str], free: bool) -> list[str] | None:
    """The parameters of a method that cannot be called with the wanted ones in their order; None where it can.

    It names them as they are described, unless these names are `free`; one that it does not use may begin with `_`.
    """
    bound = of_class and not isinstance(member, staticmethod)
    try:
        signature = inspect.signature(getattr(member, "__func__", member))
    except (TypeError, ValueError):  # not written in Python
        return None
    own = [each.name for each in signature.parameters.values() if each.kind in _POSITIONAL][bound:]
    try:
        signature.bind(*wanted, *[None] * bound)
        fits = free or all(mine == theirs or mine[0] == "_" for mine, theirs in zip(own, wanted, strict=False))
    except TypeError:
        fits = False
    return None if fits else list(signature.parameters)[bound:]


def events() -> dict[str, list[str]]:
    """Each event of a run and its arguments."""
    found = {name: event for name, event in vars(Lifecycle).items() if inspect.isfunction(event)}
    return {name: list(inspect.signature(event).parameters)[1:] for name, event in found.items()}


def hook_problems(observer: Any, what: str) -> Iterator[Problem]:
    """Hooks of an observer that are not events, that are not marked, or whose parameters an event does not have."""
    manager = pluggy.PluginManager("fluxflow")
    known = events()
    for name, method in inspect.getmembers(observer, inspect.isfunction):
        marked = manager.parse_hookimpl_opts(observer, name) is not None
        where, text = definition(method)
        if marked and name not in known:
            message = f"hook `{name}` of {what} is not an event of a run"
            yield Problem(message, where, code="unknown-hook", subject=name, choices=known)
        elif not marked and name in known:
            message = f"`{name}` of {what} is not marked as a hook: put `@hookimpl` above it"
            yield Problem(message, where, code="unmarked-hook", subject=name)
        for need in list(inspect.signature(method).parameters)[1:] if marked and name in known else ():
            if need not in known[name]:
                message = f"hook `{name}` of {what} requests `{need}`, which the event does not have"
                notes = (("defined in", f"{where}  {text}"),)
                yield Problem(message, where, notes, code="wrong-parameters", subject=need, choices=known[name])
