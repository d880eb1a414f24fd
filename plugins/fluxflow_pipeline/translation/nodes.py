"""Parts of a recipe: mappings and components whose values keep their locations."""

from __future__ import annotations

from fluxflow_registry import Location
from fluxflow_registry.commands import Node, as_node


def entry(where: Location, comment: str = "", /, **children: object) -> Node:
    """A mapping; children that are None are left out."""
    return as_node({key: child for key, child in children.items() if child is not None}, where, comment)


def component(type_: str, where: Location, comment: str = "", /, **options: object) -> Node:
    """A component of a type, with its options."""
    return entry(where, comment, type=type_, **options)
