"""`--schema`: the recipe language of this environment as a JSON schema, for editors."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from fluxflow_registry.cli.describe import meanings_of
from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.recipe import schema
from fluxflow_registry.recipe.convert import limits_of
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

_BOUNDS = {">": "exclusiveMinimum", ">=": "minimum", "<": "exclusiveMaximum", "<=": "maximum"}
_SCALARS: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def schema_command(invocation: Invocation) -> Result:
    """The schema of recipes: JSON in either case."""
    return Result(lambda: recipe_schema(invocation.registry))


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """The JSON schema of a recipe: every key, every component's options, types and bounds."""
    definitions = {kind: _entry(registry, kind) for kind in KINDS}
    for kind in KINDS:
        definitions |= {f"{kind}.{name}": _component(registry.components[kind][name]) for name in registry.names(kind)}
    step = _object(schema.StepSettings)
    update = _object(schema.UpdateSettings)
    evaluation = _object(schema.EvaluationSettings)
    update["properties"].update(
        losses=_named(registry, "loss"),
        optimizer=_ref("optimizer"),
        scheduler=_or_null(_ref("scheduler")),
        balancer=_or_null(_ref("balancer")),
        start=_or_condition(update["properties"]["start"]),
    )
    evaluation["properties"]["metrics"] = _named(registry, "metric")
    step["properties"].update(
        updates={"type": "object", "additionalProperties": {"$ref": "#/$defs/update"}},
        until=_or_null(_ref("transition")),
        values=_named(registry, "value"),
        evaluate={"type": "object", "additionalProperties": _or_false(_ref("evaluation"))},
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fluxflow recipe",
        "type": "object",
        "required": ["recipe", "steps"],
        "additionalProperties": False,
        "properties": {
            "recipe": {"const": schema.VERSION},
            "name": {"type": "string"},
            "seed": {"type": "integer", "minimum": 0},
            "models": _named(registry, "model"),
            "datasets": _named(registry, "dataset"),
            "sampler": _ref("sampler"),
            "values": _named(registry, "value"),
            "observers": _named(registry, "observer"),
            "defaults": {"$ref": "#/$defs/step"},
            "steps": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/step"}},
        },
        "$defs": {**definitions, "step": step, "update": update, "evaluation": evaluation},
    }


def _ref(kind: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{kind}"}


def _or_null(inner: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [inner, {"type": "null"}]}


def _or_false(inner: Mapping[str, Any]) -> dict[str, Any]:
    """`false` removes what `defaults` or a plugin adds."""
    return {"anyOf": [inner, {"const": False}]}


def _or_condition(start: Mapping[str, Any]) -> dict[str, Any]:
    """A late start is at a batch, or once a transition's condition holds."""
    return {"anyOf": [start, _ref("transition")]}


def _named(registry: Registry, kind: str) -> dict[str, Any]:
    """A mapping of labels to entries; a label without `type` is its own type, and has the options of that."""
    untyped = {"type": "object", "not": {"required": ["type"]}}
    return {
        "type": "object",
        "properties": {
            name: {"if": untyped, "then": _ref(f"{kind}.{name}"), "else": _or_false(_ref(kind))}
            for name in registry.names(kind)
        },
        "additionalProperties": _or_false(_ref(kind)),
    }


def _entry(registry: Registry, kind: str) -> dict[str, Any]:
    """An entry of a kind: with a `type`, exactly that component's options; without, any."""
    names = registry.names(kind)
    by_type = [
        {"if": {"required": ["type"], "properties": {"type": {"const": name}}}, "then": _ref(f"{kind}.{name}")}
        for name in names
    ]
    return {
        "anyOf": [
            {"type": "object", "properties": {"type": {"enum": names}}, "allOf": by_type},
            {"type": "string", "enum": names},
        ]
    }


def _component(component: Component) -> dict[str, Any]:
    """The keys of an entry of this component."""
    own = _object(KINDS[component.kind].settings)["properties"]
    if "start" in own:
        own["start"] = _or_condition(own["start"])
    options = _object(component.factory)["properties"] if is_configurable(component.factory) else {}
    return {
        "description": component.summary,
        "type": "object",
        "properties": {"type": {"const": component.name}, **own, **options},
        "additionalProperties": False,
    }


def _object(cls: type) -> dict[str, Any]:
    """The keys of a class. None is required: `defaults` may hold what an entry leaves out."""
    meanings, properties = meanings_of(cls), {}
    for each in fields_of(cls):
        limits = {_BOUNDS[operator]: bound for operator, bound in limits_of(each.validator) if operator in _BOUNDS}
        meaning = {"description": meanings[each.name]} if meanings.get(each.name) else {}
        properties[key_of(each)] = {**_type(each.type, limits), **meaning}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _type(kind: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a type; bounds hold for its numbers."""
    if kind in _SCALARS:
        return {"type": _SCALARS[kind], **(limits if kind in (int, float) else {})}
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(member, limits) for member in arguments]}
    if origin in (list, Sequence, set, frozenset):
        return {"type": "array", **({"items": _type(arguments[0], {})} if arguments else {})}
    if origin is tuple:
        if arguments and arguments[-1] is Ellipsis:
            return {"type": "array", "items": _type(arguments[0], {})}
        items = [_type(argument, {}) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (dict, Mapping):
        return {"type": "object", **({"additionalProperties": _type(arguments[1], {})} if arguments else {})}
    if isinstance(kind, type) and attrs.has(kind):
        return _object(kind)
    return {}
