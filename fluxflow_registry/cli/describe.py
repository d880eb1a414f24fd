"""`--describe`: one component in full, with a line of YAML to paste."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import math
import re
import shutil
import sys
import textwrap
from typing import Any

import attrs
from cattrs import unstructure

from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.list_plugins import component_data
from fluxflow_registry.cli.output import Result
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Flag, RecipeError
from fluxflow_registry.recipe.convert import describe_type, limits_of
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of, source_of

#: The most characters of a line.
WIDTH = 120

FLAG = Flag("--describe")


def find(registry: Registry, name: str) -> list[Component]:
    """The components called `name`, or those of one kind by `kind:name`; raises RecipeError with the nearest name."""
    kind, _, name = name.rpartition(":")
    if kind and kind not in KINDS:
        message = f"`{kind}` is not a kind of component"
        raise RecipeError(message, FLAG, code="unknown-name", subject=kind, choices=KINDS)
    kinds = [kind] if kind else list(KINDS)
    found = [registry.components[k][name] for k in kinds if name in registry.components[k]]
    if not found:
        known = {name for k in kinds for name in registry.components[k]}
        message = f"no component is called `{name}`"
        raise RecipeError(message, FLAG, code="unknown-component", subject=name, choices=known)
    return found


def describe_command(invocation: Invocation) -> Result:
    """The components that the command line names."""
    registry, name = invocation.registry, invocation.arguments.describe

    def data() -> list[dict[str, Any]]:
        return [
            {**component_data(c), "doc": c.doc, "where": c.where, "options": options(c), "yaml": paste(c)}
            for c in find(registry, name)
        ]

    return Result(data, lambda: describe(registry, name))


def describe(registry: Registry, name: str) -> str:
    """Docstring, options with types, defaults and bounds, needs, provenance, and YAML to paste."""
    return "\n\n".join(_describe(component) for component in find(registry, name))


def options(component: Component) -> list[dict[str, Any]]:
    """The options of a component: name, type, default, bounds, meaning."""
    return rows_of(component.factory) if is_configurable(component.factory) else []


def rows_of(cls: type) -> list[dict[str, Any]]:
    """The keys that a class of options, or of settings, reads: name, type, default, bounds, meaning."""
    meanings = meanings_of(cls)
    rows = []
    for attribute in fields_of(cls):
        row: dict[str, Any] = {"name": key_of(attribute), "type": describe_type(attribute.type)}
        if getattr(attribute.default, "takes_self", False):
            row["computed"] = True
        elif attribute.default is not attrs.NOTHING:
            row["default"] = _default(attribute.default)
        if limits := limits_of(attribute.validator):
            row["bounds"] = ", ".join(f"{operator} {bound}" for operator, bound in limits)
        if "example" in attribute.metadata:
            row["example"] = attribute.metadata["example"]
        row["meaning"] = meanings.get(attribute.name, "")
        rows.append(row)
    return rows


def paste(component: Component) -> str:
    """A line of YAML that is valid in a recipe.

    An option whose default alone makes no component has an `example` in its field's metadata.
    """
    kind = KINDS[component.kind]
    pairs = [f"type: {component.name}"] if kind.key else []
    pairs += [
        f"{row['name']}: {yaml(row.get('example', row.get('default'))) if 'default' in row else '...'}"
        for row in options(component)
        if "computed" not in row
    ]
    return f"{(kind.key or component.name).format(name=component.name)}: {{{', '.join(pairs)}}}"


def own_defaults(component: Component) -> dict[str, float]:
    """Defaults of keys of the recipe's entry that the component itself sets: the weight of a loss."""
    kind = KINDS[component.kind]
    own = {key_of(each): each.metadata["member"] for each in attrs.fields(kind.settings) if "member" in each.metadata}
    return {key: getattr(kind.extras.of(component.factory), member) for key, member in own.items()}


def _describe(component: Component) -> str:
    kind = KINDS[component.kind]
    lines = [f"{component.kind} `{component.name}`", "", textwrap.indent(component.doc, "  ")]
    rows = options(component)
    lines += ["", "options"] if rows else []
    for row in rows:
        default = f" = {yaml(row['default'])}" if "default" in row else " (required)"
        default = " (computed)" if "computed" in row else default
        limits = f", {row['bounds']}" if "bounds" in row else ""
        lines.append(_indented(f"{row['name']}{default}  ({row['type']}{limits})", 2, under=8))
        lines += [_indented(row["meaning"], 6)] if row["meaning"] else []
    if kind.keys:
        own = [f"  ({key} {value:g} by default)" for key, value in own_defaults(component).items()]
        lines += ["", f"every {kind.name} also takes  {', '.join(kind.keys)}{''.join(own)}"]
    lines += ["", f"needs       {', '.join(component.signature.needs) or 'nothing'}", f"returns     {kind.returns}"]
    lines += [f"from        {component.plugin}", f"defined in  {component.where}"]
    return "\n".join([*lines, "", "YAML", f"  {paste(component)}"])


def _indented(text: str, by: int, under: int | None = None) -> str:
    """The text wrapped to the terminal, or to a page where there is none, each line indented."""
    shown = sys.stdout is not None and sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, WIDTH) if shown else WIDTH
    first, others = " " * by, " " * (by if under is None else under)
    wrapper = textwrap.TextWrapper(max(width, 40), first, others, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(text) or first


def _default(default: Any) -> Any:
    value = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
    plain = unstructure(value)
    try:
        json.dumps(plain)
    except TypeError:  # an object that no recipe can name
        return "..."
    return plain


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_KEYWORDS = {"true", "false", "null", "yes", "no", "on", "off"}


def yaml(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(yaml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml(key)}: {yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    if isinstance(value, str) and value != "...":
        return value if _PLAIN.match(value) and value.lower() not in _KEYWORDS else json.dumps(value)
    return str(value)


def meanings_of(cls: type) -> dict[str, str]:
    """The string literals right after the fields of a class, and of its bases, in the source."""
    found = {}
    for base in reversed(cls.__mro__):
        tree, _ = source_of(base)
        for statement, after in itertools.pairwise(tree.body if tree else ()):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = inspect.cleandoc(after.value.value)
    return found
