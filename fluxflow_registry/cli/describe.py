"""`--list-plugins` and `--describe`: the list of plugins and components, and one component in full."""

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
from fluxflow_registry.cli.output import Result
from fluxflow_registry.contracts import KINDS, kind_named
from fluxflow_registry.errors import Flag, RecipeError, printable
from fluxflow_registry.recipe.convert import limits_of
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import describe_type, fields_of, is_configurable, key_of, source_of

#: The most characters of a line.
WIDTH = 120

FLAG = Flag("--describe")


def list_plugins_command(invocation: Invocation) -> Result:
    """The plugins and components, all or of the kind that the command line names."""
    registry, name = invocation.registry, invocation.arguments.list_plugins
    kind = kind_named(name, Flag("--list-plugins")).name if name else None
    return Result(lambda: listing_data(registry, kind), lambda: listing(registry, kind))


def listing(registry: Registry, kind: str | None) -> str:
    """The listing as text: plugins and a table for each kind, or the table of one kind in full."""
    if kind is not None:
        return "\n".join(_kind(registry, kind, full=True))
    lines = ["PLUGINS"]
    width = max((len(plugin.name) for plugin in registry.plugins), default=0)
    for plugin in registry.plugins:
        lines.append(f"  {plugin.name:<{width}}  {plugin.distribution} {plugin.version}".rstrip())
        if plugin.error:
            state = "partly loaded" if registry.has(plugin) else "not loaded"
            lines += [f"      {printable(line)}" for line in f"{state}: {plugin.error}".splitlines()]
    if not registry.plugins:
        lines.append("  none")
    for name in KINDS:
        if registry.components[name]:
            lines += ["", *_kind(registry, name, full=False)]
    return "\n".join(lines)


def _kind(registry: Registry, kind: str, full: bool) -> list[str]:
    lines = [KINDS[kind].plural.upper()]
    names = registry.names(kind)
    width = max((len(name) for name in names), default=0)
    for name in names:
        component = registry.components[kind][name]
        lines.append(f"  {name:<{width}}  {component.summary}".rstrip())
        if full:
            needs = ", ".join(component.signature.needs)
            lines += [f"  {'':<{width}}  needs {needs}"] if needs else []
            lines.append(f"  {'':<{width}}  {component.plugin}")
    provided = KINDS[kind].provided
    if provided and full:
        width = max(map(len, provided))
        lines += ["", "PROVIDED BY THE ENGINE"]
        lines += [f"  {name:<{width}}  {meaning}" for name, meaning in provided.items()]
    if not names:
        lines.append("  none")
    return lines


def component_data(component: Component) -> dict[str, Any]:
    """A component as JSON."""
    return {
        "kind": component.kind,
        "name": component.name,
        "summary": component.summary,
        "needs": list(component.signature.needs),
        "plugin": component.plugin.name,
        "distribution": component.plugin.distribution,
        "version": component.plugin.version,
    }


def listing_data(registry: Registry, kind: str | None) -> dict[str, Any]:
    """The listing as JSON."""
    plugins = [
        {
            "name": each.name,
            "distribution": each.distribution,
            "version": each.version,
            "error": each.error,
            "problems": [problem.as_json() for problem in each.problems],
        }
        for each in registry.plugins
    ]
    kinds = [kind] if kind else list(KINDS)
    components = [component_data(c) for k in kinds for _, c in sorted(registry.components[k].items())]
    return {"plugins": plugins, "components": components}


def find(registry: Registry, name: str) -> list[Component]:
    """The components called `name`, or those of one kind by `kind:name`; raises RecipeError with the nearest name."""
    kind, _, name = name.rpartition(":")
    kinds = [kind_named(kind, FLAG).name] if kind else list(KINDS)
    found = [registry.components[k][name] for k in kinds if name in registry.components[k]]
    contested = [registry.unknown(k, name, "", FLAG) for k in kinds if (k, name) in registry.contested]
    if contested and not found:
        raise RecipeError(contested)
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
    plain = unstructure(default.factory() if isinstance(default, attrs.Factory) else default)  # type: ignore[arg-type]
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
        for statements in itertools.pairwise(tree.body if tree else ()):
            match statements:
                case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                    found[name] = inspect.cleandoc(text)
    return found
