"""A recipe in the making: values with the places from which they come, and with comments for its reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from fluxflow_registry.errors import Location
from fluxflow_registry.recipe.node import Node


@frozen(eq=False)
class Piece(Node):
    """A value of a recipe that is made of something else, and what its reader should know of it."""

    comment: str = ""


def said(value: Any, where: Location | str, comment: str = "") -> Piece:
    """A scalar, or a list of scalars, that comes from one place."""
    if isinstance(value, (list, tuple)):
        value = [said(item, where) for item in value]
    return Piece(value, where, {}, comment)


def entry(where: Location | str, comment: str = "", /, **children: Node | None) -> Piece:
    """A mapping; each key stands where its value does, and one without a value is left out."""
    return mapping(where, children, comment)


def mapping(where: Location | str, children: Mapping[str, Node | None], comment: str = "") -> Piece:
    """A mapping of names."""
    value = {key: child for key, child in children.items() if child is not None}
    return Piece(value, where, {key: child.where for key, child in value.items()}, comment)


def component(type_: str, where: Location | str, comment: str = "", /, **options: Node | None) -> Piece:
    """A component of a type, with its options."""
    return entry(where, comment, type=said(type_, where), **options)


def commented(node: Node, comment: str) -> Piece:
    """The same value with a comment."""
    return Piece(node.value, node.where, node.keys, comment)


def without(piece: Node, keys: Mapping[str, Any]) -> Node:
    """A mapping without some keys, its comment kept."""
    rest = piece.without(keys)
    return evolve(piece, value=rest.value, keys=rest.keys)
