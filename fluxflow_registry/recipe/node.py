"""The values of a recipe file as a tree in which every key and every value has its location."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from fluxflow_registry.errors import Location, to_location


@frozen(eq=False)
class Node:
    """A value of the file with its location and, for a mapping, the locations of its keys."""

    value: Any
    where: Location = field(converter=to_location)
    keys: dict[str, Location]
    #: Written beside the value where the tree is shown as YAML.
    comment: str = field(default="", kw_only=True)

    def plain(self) -> Any:
        """The value without locations, as dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def get(self, key: str | int) -> Node | None:
        """The child under a key of a mapping or at an index of a list, or None."""
        if isinstance(self.value, list) and isinstance(key, int):
            return self.value[key] if key < len(self.value) else None
        return self.value.get(key) if isinstance(self.value, dict) else None

    def under(self, key: str) -> dict[str, Node]:
        """The children of the mapping under `key`; none where there is no mapping."""
        child = self.get(key)
        return child.value if child is not None and isinstance(child.value, dict) else {}

    def find(self, *path: str | int) -> Node | None:
        """The value at `path`, or None."""
        if not path:
            return self
        child = self.get(path[0])
        return child.find(*path[1:]) if child is not None else None

    def at(self, *path: str | int) -> Location:
        """The location of the value at `path`, or of the nearest ancestor that exists."""
        child = self.get(path[0]) if path else None
        return child.at(*path[1:]) if child is not None else self.where

    def key_at(self, *path: str | int) -> Location:
        """The location of the key at `path`, or of the value where its parent is not a mapping."""
        if len(path) > 1:
            child = self.get(path[0])
            return child.key_at(*path[1:]) if child is not None else self.where
        return self.keys.get(str(path[0]), self.at(*path))

    def without(self, keys: Iterable[str]) -> Node:
        """The mapping without these keys."""
        drop = set(keys)
        return self.only(key for key in self.value if key not in drop)

    def only(self, keys: Iterable[str]) -> Node:
        """The mapping with these keys only."""
        value = {key: self.value[key] for key in keys if key in self.value}
        return Node(value, self.where, {key: self.keys[key] for key in value})


def as_node(value: Any, where: Location | str, comment: str = "") -> Node:
    """Plain data as a tree at one location; Nodes in it keep theirs, and a key is where its value is."""
    if isinstance(value, Node):
        return value
    if isinstance(value, (list, tuple)):
        return Node([as_node(item, where) for item in value], where, {}, comment=comment)
    if isinstance(value, Mapping):
        children = {key: as_node(child, where) for key, child in value.items()}
        return Node(children, where, {key: child.where for key, child in children.items()}, comment=comment)
    return Node(value, where, {}, comment=comment)


def describe_value(value: Any) -> str:
    """A plain value in a user's words, such as "the number `5`" or "a mapping"."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f"the string `{value}`" if len(value) <= 60 else "a string"
    return f"the number `{value}`"


def merge(base: Node, over: Node) -> Node:
    """`over` merged deeply over `base`, key by key; another `type` replaces the whole component.

    The keys of `over` come first and in its order: the updates of a step run in the order of the step.
    """
    if isinstance(base.value, str) and isinstance(over.value, dict):
        base = expanded(base)
    elif isinstance(over.value, str) and base.get("type") is not None:
        over = expanded(over)
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    types = base.get("type"), over.get("type")
    if types[0] and types[1] and types[0].value != types[1].value:
        return over
    value = {key: merge(base.value[key], child) if key in base.value else child for key, child in over.value.items()}
    rest = {key: child for key, child in base.value.items() if key not in value}
    return Node({**value, **rest}, over.where, {**base.keys, **over.keys})


def expanded(name: Node) -> Node:
    """A component written as its name alone (`sampler: heun`) as the mapping that this is short for."""
    return Node({"type": name}, name.where, {"type": name.where})
