"""`--list-plugins`: every plugin, loaded or not, and every component with what it needs and where it comes from."""

from __future__ import annotations

from typing import Any

from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Flag, RecipeError, printable
from fluxflow_registry.registry.registry import Component, Registry


def list_plugins_command(invocation: Invocation) -> Result:
    """The plugins and components, all or of the kind that the command line names."""
    registry, kind = invocation.registry, _kind_named(invocation.arguments.list_plugins)
    return Result(lambda: listing_data(registry, kind), lambda: listing(registry, kind))


def _kind_named(name: str) -> str | None:
    """The kind of that name, in the singular or the plural; None for all kinds."""
    if not name:
        return None
    for kind in KINDS.values():
        if name in (kind.name, kind.plural):
            return kind.name
    message = f"`{name}` is not a kind of component"
    raise RecipeError(message, Flag("--list-plugins"), code="unknown-kind", subject=name, choices=KINDS)


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
