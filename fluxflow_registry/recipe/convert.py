"""Plain values to frozen classes, strictly: nothing is coerced, and every problem has its place."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from fluxflow_registry.errors import Choices, Problem, choices, nearest, one_line
from fluxflow_registry.recipe.node import Node, describe
from fluxflow_registry.registry.signature import fields_of, key_of

T = TypeVar("T")

_SEQUENCES = (list, tuple, Sequence, set, frozenset)
_MAPPINGS = (dict, Mapping)
_UNIONS = (Union, types.UnionType)


class Mismatch(ValueError):  # noqa: N818 - it is one of many, told as a Problem
    """A value that its type refuses; `path` leads from the field to the guilty part."""

    def __init__(self, message: str, notes: tuple[tuple[str, str], ...] = (), key: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.notes = notes
        #: Whether it is the key at the end of the path that is wrong, and not its value.
        self.key = key
        self.path: tuple[str | int, ...] = ()

    def inside(self, part: str | int) -> Mismatch:
        """The same mismatch, seen from one level further out."""
        self.path = (part, *self.path)
        return self


def structure(cls: type[T], node: Node, what: str, also: Iterable[str] = ()) -> tuple[T | None, list[Problem]]:
    """An instance of the attrs class `cls` from a mapping, and every problem on the way.

    `what` says in messages whose keys these are ("loss `kl`"), `also` which keys are read elsewhere. With
    problems the instance is None.
    """
    fields = [*map(key_of, fields_of(cls)), *also]
    strays, meant = unknown_keys(node, fields, what)
    arguments, problems = read_fields(cls, node, what, meant)
    problems = [*strays, *problems] or _refused(cls, arguments, node, what)
    if problems:
        return None, problems
    try:
        return cls(**arguments), []
    except Exception as error:  # a rule of the component's own
        return None, [Problem(f"{what}: {_told(error)}", node.where)]


def unknown_keys(node: Node, known: Iterable[str], what: str) -> tuple[list[Problem], set[str]]:
    """A problem for each key that is not known, and the keys that they were probably meant to be."""
    keys = list(known)
    strays = [key for key in node.value if key not in keys] if isinstance(node.value, dict) else []
    problems = [
        Problem(
            f"unknown key `{key}` in {what}",
            node.keys[key],
            code="unknown-key",
            subject=key,
            choices=Choices.of(key, keys),
        )
        for key in strays
    ]
    return problems, {meant for key in strays if (meant := nearest(key, keys))}


def read_fields(
    cls: type, node: Node, what: str, misspelt: Collection[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The arguments for `cls` that the mapping states rightly, and a problem for each that it does not.

    A key that is there, but `misspelt`, is not told to be missing as well. Other keys are left alone.
    """
    if node.value is None:
        node = Node({}, node.where, {})
    if not isinstance(node.value, dict):
        return {}, [Problem(f"{what} is described by a mapping, not {describe(node.value)}", node.where)]
    arguments: dict[str, Any] = {}
    problems = []
    for attribute in fields_of(cls):
        key, child = key_of(attribute), node.get(key_of(attribute))
        if child is None:
            if attribute.default is attrs.NOTHING and key not in misspelt:
                problems.append(Problem(f"{what} needs `{key}`: {describe_type(attribute.type)}", node.where))
            continue
        try:
            value = _read(child.plain(), attribute.type)
            _validate(attribute, key, value)
            arguments[str(attribute.alias)] = value
        except Mismatch as error:
            where = (child.key_at if error.key else child.at)(*error.path)
            notes = error.notes or _emptied(key, child, attribute.type)
            problems.append(Problem(f"`{key}` of {what}: {error.message}", where, notes))
    return arguments, problems


def _emptied(key: str, child: Node, kind: Any) -> tuple[tuple[str, str], ...]:
    """What takes a setting away, where `false` was meant to: it takes entries away."""
    return (("to do without", f"`{key}: null`"),) if child.value is False and type(None) in get_args(kind) else ()


def _validate(attribute: attrs.Attribute[Any], key: str, value: Any) -> None:
    """Run attrs' own validators field by field, so that one bad option does not hide the next.

    Validators that are functions may look at other fields and wait until those are right.
    """
    validator = attribute.validator
    if validator is None or type(validator).__module__ not in ("attr.validators", "attr._make"):
        return
    try:
        validator(None, attribute, value)
    except (ValueError, TypeError) as error:
        raise Mismatch(_told(error).replace(f"'{attribute.name}' ", "").replace("'", "`")) from None
    except AttributeError:  # a combined validator with a function in it
        return


def _refused(cls: type, arguments: Mapping[str, Any], node: Node, what: str) -> list[Problem]:
    """What validators that are functions say, each at its option."""
    with attrs.validators.disabled():
        try:
            draft = cls(**arguments)
        except Exception:  # told when the instance is made
            return []
    problems = []
    for attribute in fields_of(cls):
        try:
            if attribute.validator is not None:
                attribute.validator(draft, attribute, getattr(draft, attribute.name))
        except Exception as error:
            problems.append(Problem(f"{what}: {_told(error)}", node.at(key_of(attribute))))
    return problems


def _told(error: Exception) -> str:
    """The first line of what a validator says."""
    told = str(error.args[0] if error.args else "").strip().splitlines()
    return told[0] if told and isinstance(error, (ValueError, TypeError)) else one_line(error)


@cache
def converter() -> cattrs.Converter:
    """The strict converter; a plugin may register hooks for types of its own."""
    strict = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    for scalar, accepts in _ACCEPTS.items():
        strict.register_structure_hook(scalar, _scalar(scalar, accepts))
    strict.register_structure_hook(type(None), _nothing)
    strict.register_structure_hook(Any, lambda value, _: value)
    factories: list[tuple[Callable[[Any], bool], Callable[[Any], Callable[[Any, Any], Any]]]] = [
        (lambda t: get_origin(t) is Literal, _literal),
        (lambda t: (get_origin(t) or t) in _SEQUENCES, _sequence),
        (lambda t: (get_origin(t) or t) in _MAPPINGS, _mapping),
        (lambda t: get_origin(t) in _UNIONS, _union),
        (lambda t: isinstance(t, type) and attrs.has(t), _nested),
    ]
    for applies, factory in factories:
        strict.register_structure_hook_factory(applies, factory)
    return strict


_ACCEPTS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int), str: (str,)}


def _expected(kind: Any, value: Any) -> Mismatch:
    return Mismatch(f"expected {describe_type(kind)}, not {describe(value)}")


def _scalar(scalar: type, accepts: tuple[type, ...]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if (
            not isinstance(value, accepts)
            or (isinstance(value, bool) and scalar is not bool)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise _expected(scalar, value)
        return scalar(value)

    return hook


def _nothing(value: Any, _: Any) -> None:
    if value is not None:
        raise _expected(type(None), value)


def _literal(kind: Any) -> Callable[[Any, Any], Any]:
    options = get_args(kind)

    def hook(value: Any, _: Any) -> Any:
        for option in options:
            if value == option and type(value) is type(option):
                return option
        notes = choices(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else ()
        raise Mismatch(f"expected {describe_type(kind)}, not {describe(value)}", notes)

    return hook


def _sequence(kind: Any) -> Callable[[Any, Any], Any]:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    fixed = origin is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    make = tuple if origin in (tuple, Sequence) else origin

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list) or (fixed and len(value) != len(arguments)):
            raise _expected(kind, value)
        types_ = arguments if fixed else [arguments[0] if arguments else Any] * len(value)
        return make([_inside(index, v, t) for index, (v, t) in enumerate(zip(value, types_, strict=True))])

    return hook


def _mapping(kind: Any) -> Callable[[Any, Any], Any]:
    key_type, value_type = get_args(kind) or (str, Any)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _expected(kind, value)
        return {_key(key, key_type): _inside(key, child, value_type) for key, child in value.items()}

    return hook


def _key(key: str, kind: Any) -> Any:
    try:
        return _inside(key, key, kind)
    except Mismatch as error:
        error.key = True
        raise


def _union(kind: Any) -> Callable[[Any, Any], Any]:
    members = get_args(kind)

    def hook(value: Any, _: Any) -> Any:
        deepest: Mismatch | None = None
        for member in members:
            try:
                return _read(value, member)
            except Mismatch as error:
                if len(error.path) > (len(deepest.path) if deepest else 0):
                    deepest = error
        named = [m for m in members if m is not type(None)]
        if len(named) == 1:  # `X | None`: the message of X is the clearest
            return _read(value, named[0])
        raise deepest or _expected(kind, value)

    return hook


def _nested(cls: type) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _expected(cls, value)
        fields = {key_of(attribute): attribute for attribute in fields_of(cls)}
        arguments = {}
        for key, child in value.items():
            if key not in fields:
                raise Mismatch(f"unknown key `{key}`", choices(key, fields, "keys"), key=True).inside(key)
            made = arguments[str(fields[key].alias)] = _inside(key, child, fields[key].type)
            try:
                _validate(fields[key], key, made)
            except Mismatch as error:
                raise error.inside(key) from None
        missing = [k for k, a in fields.items() if a.default is attrs.NOTHING and k not in value]
        if missing:
            raise Mismatch(f"needs `{missing[0]}`")
        return cls(**arguments)

    return hook


def _inside(part: str | int, value: Any, kind: Any) -> Any:
    try:
        return _read(value, kind)
    except Mismatch as error:
        raise error.inside(part) from None


def _read(value: Any, kind: Any) -> Any:
    """The value as `kind`; raises Mismatch, for types that cattrs knows by itself too (Path, Enum)."""
    try:
        return converter().structure(value, kind)
    except Mismatch:
        raise
    except Exception:
        raise _expected(kind, value) from None


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "nothing",
    Any: "anything",
}


def describe_type(kind: Any) -> str:
    """A type in a user's words: `a list of whole numbers` rather than `list[int]`."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin in _UNIONS:
        return " or ".join(describe_type(member) for member in arguments)
    if origin in _SEQUENCES:
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: " + ", ".join(describe_type(a) for a in arguments)
        return "a list" + (f", each {describe_type(arguments[0])}" if arguments else "")
    if origin in _MAPPINGS:
        return "a mapping" + (f", each {describe_type(arguments[1])}" if arguments else "")
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    return f"{'a mapping' if attrs.has(origin) else 'a value'} ({getattr(kind, '__name__', kind)})"
