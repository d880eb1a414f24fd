"""`--list-plugins`: every plugin with its fate, every component with what it needs and who brought it."""

from __future__ import annotations

from typing import Any

from fluxflow_registry.contracts import CONTEXT, KINDS
from fluxflow_registry.errors import printable
from fluxflow_registry.registry.registry import Component, Registry


def listing(registry: Registry, kind: str | None) -> str:
    """The listing as text: plugins and a table for each kind, or the table of one kind in full."""
    if kind is not None:
        return "\n".join(_kind(registry, kind, full=True))
    lines = ["PLUGINS"]
    width = max((len(plugin.name) for plugin in registry.plugins), default=0)
    for plugin in registry.plugins:
        lines.append(f"  {plugin.name:<{width}}  {plugin.distribution} {plugin.version}".rstrip())
        if plugin.error:
            fate = "loaded in part" if registry.has(plugin) else "not loaded"
            told = f"{fate}: {plugin.error}"
            lines += [f"      {printable(line)}" for line in told.splitlines()]
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
    if kind == "value" and full:
        lines += ["", "PROVIDED BY THE ENGINE"]
        width = max(map(len, CONTEXT))
        lines += [f"  {name:<{width}}  {meaning}" for name, meaning in CONTEXT.items()]
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
        {"name": p.name, "distribution": p.distribution, "version": p.version, "error": p.error}
        for p in registry.plugins
    ]
    kinds = [kind] if kind else list(KINDS)
    components = [component_data(c) for k in kinds for _, c in sorted(registry.components[k].items())]
    return {"plugins": plugins, "components": components}
