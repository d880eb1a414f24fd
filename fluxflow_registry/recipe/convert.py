"""Values of a recipe to frozen classes, strictly: wrong types, unknown and missing keys, each with its location."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs

from fluxflow_registry.errors import Choices, Location, Note, Problem, one_line
from fluxflow_registry.recipe.node import Node, describe_value
from fluxflow_registry.redaction import redact
from fluxflow_registry.registry.signature import MAPPINGS, SEQUENCES, UNIONS, describe_type, fields_of, key_of

T = TypeVar("T")

#: Classes of attrs that have no public name.
_ALL: Any = type(attrs.validators.and_())
_OPTIONAL: Any = type(attrs.validators.optional(attrs.validators.ge(0)))


@attrs.define(eq=False)
class Mismatch(ValueError):  # noqa: N818 - it becomes one problem of many
    """A value that its type rejects: why, as a predicate, and the path from the option to the value."""

    predicate: str
    code: str = "wrong-type"
    choices: Choices | None = None
    notes: tuple[Note, ...] = ()
    #: The key of a mapping that is wrong itself, rather than the value under it.
    key: str | None = None
    path: tuple[str | int, ...] = ()

    @property
    def depth(self) -> int:
        """How far into the value it is; a key that is unknown or missing, or a rule, is a level inside its mapping."""
        return len(self.path) + (self.code in ("unknown-key", "missing-key", "invalid-value"))

    def inside(self, part: str | int) -> Mismatch:
        """The same mismatch, seen from one level further out."""
        self.path = (part, *self.path)
        return self

    def problem(self, key: str, node: Node, what: str, notes: Sequence[Note]) -> Problem:
        """The problem of option `key` of `what`, whose value is `node`."""
        option = f"`{'.'.join(map(str, (key, *self.path)))}` of {what}"
        message, where = f"{option} {self.predicate}", node.at(*self.path)
        if self.key is not None:
            where = node.key_at(*self.path, self.key)
            unknown = self.code == "unknown-key"
            message = f"unknown key `{self.key}` in {option}" if unknown else f"key `{self.key}` of {message}"
        return Problem(
            message, where, [*self.notes, *notes], code=self.code, subject=self.key or key, choices=self.choices
        )


def structure(cls: type[T], node: Node, what: str, also: Iterable[str] = ()) -> tuple[T | None, list[Problem]]:
    """An instance of the attrs class `cls` from a mapping, and every problem on the way.

    Messages call the owner of the keys `what` ("loss `kl`"); the keys `also` are read elsewhere. With
    problems the instance is None.
    """
    fields = [*map(key_of, fields_of(cls)), *also]
    strays, meant = unknown_keys(node, fields, what)
    arguments, problems = read_fields(cls, node, what, meant)
    problems = [*strays, *problems] or _rejected(cls, arguments, node, what)
    if problems:
        return None, problems
    try:
        return cls(**arguments), []
    except Exception as error:  # a rule of the component's own
        return None, [_own_rule(what, error, node.where, None)]


def unknown_keys(node: Node, known: Iterable[str], what: str) -> tuple[list[Problem], set[str]]:
    """A problem for each unknown key, and the known keys that they were probably meant to be."""
    keys = list(known)
    strays = [key for key in node.value if key not in keys] if isinstance(node.value, dict) else []
    problems = [
        Problem(
            f"unknown key `{key}` in {what}",
            node.keys[key],
            code="unknown-key",
            subject=key,
            choices=Choices.of(key, keys, keys=True),
        )
        for key in strays
    ]
    return problems, {problem.nearest for problem in problems if problem.nearest is not None}


def read_fields(
    cls: type, node: Node, what: str, misspelled: Collection[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The arguments for `cls` that the mapping has right, and a problem for each that is wrong or missing.

    A key that is there, but `misspelled`, is not reported as missing too. Other keys are ignored.
    """
    if node.value is None:
        node = Node({}, node.where, {})
    if not isinstance(node.value, dict):
        return {}, [not_a_mapping(what, node)]
    arguments: dict[str, Any] = {}
    problems = []
    for attribute in fields_of(cls):
        key, child = key_of(attribute), node.get(key_of(attribute))
        if child is None:
            if attribute.default is attrs.NOTHING and key not in misspelled:
                message = f"{what} needs `{key}`: {describe_type(attribute.type)}"
                problems.append(Problem(message, node.where, code="missing-key", subject=key))
            continue
        try:
            value = _read(child.plain(), attribute.type)
            _validate(attribute, value)
            arguments[str(attribute.alias)] = value
        except Mismatch as error:
            # `false` removes entries, which may have been meant to work for a setting.
            nullable = child.value is False and type(None) in get_args(attribute.type)
            problems.append(error.problem(key, child, what, [("instead", f"`{key}: null`")] if nullable else []))
    return arguments, problems


def not_a_mapping(what: str, node: Node, subject: str | None = None, also: str = "") -> Problem:
    """The problem that the value of `what` is neither a mapping nor what `also` names."""
    message = f"{what} must be a mapping{also}, got {describe_value(node.value)}"
    return Problem(message, node.where, code="wrong-type", subject=subject)


def _validate(attribute: attrs.Attribute[Any], value: Any) -> None:
    """Run attrs' own validators field by field, so that one bad option does not hide the next.

    Validators that are functions may look at other fields and wait until those are right.
    """
    if value is None and isinstance(attribute.validator, _OPTIONAL):
        return
    for validator in _parts(attribute.validator):
        if type(validator).__module__ != "attr.validators":
            continue
        try:
            validator(None, attribute, value)
        except (ValueError, TypeError) as error:
            if not limits_of(validator):
                raise _invalid(error) from None
            limits = " and ".join(f"{operator} {bound}" for operator, bound in limits_of(attribute.validator))
            raise Mismatch(f"must be {limits}, got {value}", "out-of-range") from None
        except AttributeError:  # a combined validator with a function in it
            continue


def _invalid(error: Exception) -> Mismatch:
    return Mismatch("is not valid", "invalid-value", notes=(("cause", _first_line(error)),))


def _parts(validator: Any) -> tuple[Any, ...]:
    """The validators that must all hold, of a value that is not null where null is allowed."""
    if isinstance(validator, _OPTIONAL):
        return _parts(validator.validator)
    return validator._validators if isinstance(validator, _ALL) else (validator,)


def limits_of(validator: Any) -> list[tuple[str, Any]]:
    """What attrs' standard validators require of every value, as (operator, bound)."""
    if hasattr(validator, "compare_op"):
        return [(validator.compare_op, validator.bound)]
    if hasattr(validator, "options"):
        return [("one of", ", ".join(map(str, validator.options)))]
    return [limit for each in _parts(validator) if each is not validator for limit in limits_of(each)]


def _rejected(cls: type, arguments: Mapping[str, Any], node: Node, what: str) -> list[Problem]:
    """What validators that are functions reject, each at its option."""
    with attrs.validators.disabled():
        try:
            draft = cls(**arguments)
        except Exception:  # reported when the instance is built
            return []
    problems = []
    for attribute in fields_of(cls):
        key = key_of(attribute)
        try:
            if attribute.validator is not None:
                attribute.validator(draft, attribute, getattr(draft, attribute.name))
        except Exception as error:
            problems.append(_own_rule(what, error, node.at(key), key))
    return problems


def _own_rule(what: str, error: Exception, where: Location, option: str | None) -> Problem:
    """The problem that a component rejects its options by a rule of its own, in its own words."""
    code = "invalid-value" if isinstance(error, (ValueError, TypeError)) else "component-failed"
    return Problem(f"{what}: {_first_line(error)}", where, code=code, subject=option)


def _first_line(error: Exception) -> str:
    """The first line of what a validator reports."""
    lines = redact(str(error.args[0] if error.args else "")).strip().splitlines()
    return lines[0] if lines and isinstance(error, (ValueError, TypeError)) else one_line(error)


@cache
def converter() -> cattrs.Converter:
    """The strict converter; a plugin may register hooks for types of its own."""
    strict = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    for scalar, accepts in _ACCEPTS.items():
        strict.register_structure_hook(scalar, _scalar(scalar, accepts))
    strict.register_structure_hook(type(None), _null)
    strict.register_structure_hook(Any, lambda value, _: value)
    hooks: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
        (lambda t: get_origin(t) is Literal, _literal),
        (lambda t: (get_origin(t) or t) in SEQUENCES, _sequence),
        (lambda t: (get_origin(t) or t) in MAPPINGS, _mapping),
        (lambda t: get_origin(t) in UNIONS, _union),
        (lambda t: isinstance(t, type) and attrs.has(t), _nested),
    ]
    for applies, hook in hooks:
        strict.register_structure_hook_func(applies, hook)
    return strict


_ACCEPTS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int), str: (str,)}


def _expected(kind: Any, value: Any, choices: Choices | None = None) -> Mismatch:
    return Mismatch(f"must be {describe_type(kind)}, got {describe_value(value)}", choices=choices)


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


def _null(value: Any, _: Any) -> None:
    if value is not None:
        raise _expected(type(None), value)


def _literal(value: Any, kind: Any) -> Any:
    options = get_args(kind)
    for option in options:
        if value == option and type(value) is type(option):
            return option
    texts = [option for option in options if isinstance(option, str)]
    raise _expected(kind, value, Choices.of(value, texts) if isinstance(value, str) and texts else None)


def _sequence(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    fixed = origin is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    if not isinstance(value, list):
        raise _expected(kind, value)
    if fixed and len(value) != len(arguments):
        raise Mismatch(f"must be {describe_type(kind)}, got a list of {len(value)}")
    types_ = arguments if fixed else [arguments[0] if arguments else Any] * len(value)
    items = [_inside(index, v, t) for index, (v, t) in enumerate(zip(value, types_, strict=True))]
    return tuple(items) if origin is Sequence else origin(items)


def _mapping(value: Any, kind: Any) -> Any:
    key_type, value_type = get_args(kind) or (str, Any)
    if not isinstance(value, dict):
        raise _expected(kind, value)
    return {_key(key, key_type): _inside(key, child, value_type) for key, child in value.items()}


def _key(key: str, kind: Any) -> Any:
    try:
        return _read(key, kind)
    except Mismatch as error:
        error.key = key
        raise


def _union(value: Any, kind: Any) -> Any:
    deepest: Mismatch | None = None
    for member in get_args(kind):
        try:
            return _read(value, member)
        except Mismatch as error:
            if error.depth > (deepest.depth if deepest else 0):
                deepest = error
    named = [member for member in get_args(kind) if member is not type(None)]
    if len(named) == 1:  # `X | None`: the message of X is the clearest
        return _read(value, named[0])
    raise deepest or _expected(kind, value)


def _nested(value: Any, cls: Any) -> Any:
    if not isinstance(value, dict):
        raise _expected(cls, value)
    fields = {key_of(attribute): attribute for attribute in fields_of(cls)}
    arguments = {}
    for key, child in value.items():
        if key not in fields:
            raise Mismatch("is unknown", "unknown-key", Choices.of(key, fields, keys=True), key=key)
        read = arguments[str(fields[key].alias)] = _inside(key, child, fields[key].type)
        try:
            _validate(fields[key], read)
        except Mismatch as error:
            raise error.inside(key) from None
    missing = [key for key, each in fields.items() if each.default is attrs.NOTHING and key not in value]
    if missing:
        raise Mismatch(f"needs `{missing[0]}`: {describe_type(fields[missing[0]].type)}", "missing-key")
    try:
        return cls(**arguments)
    except Exception as error:  # a rule of its own
        raise _invalid(error) from None


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
