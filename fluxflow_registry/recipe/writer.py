"""A checked recipe written out: every value in effect, and where it came from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from attrs import has
from cattrs import unstructure
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from fluxflow_registry.errors import printable
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import ComponentEntry
from fluxflow_registry.redaction import redact
from fluxflow_registry.registry.signature import fields_of, key_of

#: A value in effect, and the location that set it.
Sourced = tuple[Any, str]

DEFAULT = "default"


def plain(tree: Any) -> Any:
    """The effective recipe without origins, as dicts, lists and scalars."""
    if isinstance(tree, dict):
        return {key: plain(child) for key, child in tree.items()}
    return tree[0]


def dump(tree: Mapping[str, Any]) -> str:
    """The effective recipe as YAML, each value with its origin in a comment."""
    yaml = YAML()
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(_commented(tree), stream)
    return stream.getvalue()


def _commented(tree: Mapping[str, Any]) -> Any:
    out = CommentedMap()
    for key, child in tree.items():
        if isinstance(child, dict):
            out[key] = _commented(child)
        else:
            value, origin = child
            out[key] = _flow(value)
            out.yaml_add_eol_comment(printable(origin) or DEFAULT, key, column=0)
    return out


def _flow(value: Any) -> Any:
    """Lists and mappings that are values are written on one line, and so are strings with line breaks of any kind."""
    # ruamel writes a string that begins with a colon without quotes between braces, where it cannot be read back.
    if isinstance(value, str) and (not value.isprintable() or value.startswith((":", "?"))):
        return DoubleQuotedScalarString(value)
    if isinstance(value, (list, tuple)):
        items = CommentedSeq([_flow(item) for item in value])
        items.fa.set_flow_style()
        return items
    if isinstance(value, dict):
        mapping = CommentedMap({_flow(key): _flow(item) for key, item in value.items()})
        mapping.fa.set_flow_style()
        return mapping
    return value


def settings_of(settings: Any, node: Node) -> dict[str, Sourced]:
    """The settings of an attrs instance, each with the location that set it; secrets in them are hidden."""
    found: dict[str, Sourced] = {}
    for attribute in fields_of(type(settings)):
        written = node.get(key_of(attribute))
        value = redact(unstructure(getattr(settings, attribute.name)))
        found[key_of(attribute)] = (value, str(written.where) if written is not None else DEFAULT)
    return found


def component_of(entry: ComponentEntry | None, type_: str, instance: Any, where: str) -> dict[str, Sourced]:
    """A component's type, the recipe's settings for it, and all its options."""
    found: dict[str, Sourced] = {"type": (type_, str(entry.where) if entry else where)}
    if entry is not None and entry.settings is not None:
        own = settings_of(entry.settings, entry.node)
        found.update({k: v for k, v in own.items() if v[0] is not None and k != "weight"})
    if has(type(instance)):
        found.update(settings_of(instance, entry.options if entry else Node({}, where, {})))
    return found
