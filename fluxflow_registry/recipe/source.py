"""YAML text as a tree of plain values in which every key and every value knows its place."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from fluxflow_registry.errors import Problem, RecipeError

#: A recipe is a page or two; these limits only stop files that were made to hurt.
MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40

_SCALARS = {"str", "int", "float", "bool", "null"}


@frozen(eq=False)
class Node:
    """A value of the file and where it stands; for a mapping, also where each of its keys stands."""

    value: Any
    where: str
    keys: dict[str, str]

    def plain(self) -> Any:
        """The value without places, as dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def get(self, key: str) -> Node | None:
        """The child under `key` of a mapping, or None."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def at(self, *path: str | int) -> str:
        """The place of the value at `path`, or of the nearest thing above it that is there."""
        node = self
        for part in path:
            child = node.get(part) if isinstance(part, str) else _item(node, part)
            if child is None:
                break
            node = child
        return node.where

    def without(self, keys: Iterable[str]) -> Node:
        """The mapping without some of its keys."""
        drop = set(keys)
        value = {key: child for key, child in self.value.items() if key not in drop}
        return Node(value, self.where, {key: self.keys[key] for key in value})


def _item(node: Node, index: int) -> Node | None:
    items = node.value if isinstance(node.value, list) else []
    return items[index] if index < len(items) else None


def describe(value: Any) -> str:
    """What a plain value is, in a user's words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f"the text `{value}`" if len(value) <= 60 else "a text"
    return f"the number `{value}`"


def read(path: str | Path) -> Node:
    """Read a YAML file; raises RecipeError when there is none, or nothing in it, or it is no YAML."""
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise RecipeError(Problem("there is no such file", name)) from None
    except OSError as error:
        raise RecipeError(Problem(f"cannot be read: {error.strerror}", name)) from None
    if len(data) > MAX_BYTES:
        raise RecipeError(Problem(f"is {len(data):,} bytes long; a recipe has at most {MAX_BYTES:,}", name))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(Problem("is not UTF-8 text", f"{name}:{line}:1")) from None
    node = parse(text, name)
    if node.value is None:
        raise RecipeError(Problem("the file is empty", name))
    return node


def parse(text: str, name: str) -> Node:
    """Parse YAML 1.2 without tags, merge keys or duplicate keys; raises RecipeError with line and column."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        told = ", ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(Problem(f"is no valid YAML: {told}", where)) from None
    except YAMLError as error:
        raise RecipeError(Problem(f"is no valid YAML: {str(error).splitlines()[0]}", name)) from None
    except (RecursionError, ValueError) as error:
        told = "is nested too deeply" if isinstance(error, RecursionError) else f"is no valid YAML: {error}"
        raise RecipeError(Problem(told, name)) from None
    if root is None:
        return Node(None, f"{name}:1:1", {})
    return _Builder(name, yaml).build(root, 0)


class _Builder:
    """Turns ruamel's nodes into ours and counts what aliases expand to."""

    def __init__(self, name: str, yaml: Any) -> None:
        self.name = name
        self.constructor = yaml.constructor
        self.count = 0

    def build(self, node: Any, depth: int) -> Node:
        where = self.place(node)
        self.count += 1
        if self.count > MAX_NODES:
            raise RecipeError(Problem(f"expands to more than {MAX_NODES:,} values", where))
        if depth > MAX_DEPTH:
            raise RecipeError(Problem("is nested too deeply", where))
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if node.id == "mapping" and tag == "map":
            return self.mapping(node, where, depth)
        if node.id == "sequence" and tag == "seq":
            return Node([self.build(child, depth + 1) for child in node.value], where, {})
        if node.id == "scalar" and tag in _SCALARS:
            return Node(self.scalar(node, tag, where), where, {})
        if tag == "merge":
            return Node("<<", where, {})
        raise RecipeError(Problem(f"a recipe is plain data: the tag `{node.tag}` is refused", where))

    def scalar(self, node: Any, tag: str, where: str) -> Any:
        if tag == "str":
            return str(node.value)
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, ArithmeticError):
            raise RecipeError(Problem(f"`{node.value}` cannot be read as a number", where)) from None
        # Plain scalars: ruamel's own classes remember how they were written.
        kinds: dict[str, type] = {"int": int, "float": float, "bool": bool}
        return kinds[tag](value) if tag in kinds else None

    def mapping(self, node: Any, where: str, depth: int) -> Node:
        value: dict[str, Node] = {}
        keys: dict[str, str] = {}
        for key_node, child in node.value:
            place = self.place(key_node)
            if key_node.id != "scalar":
                raise RecipeError(Problem("a key is a plain word", place))
            key = str(key_node.value)
            if key == "<<":
                message = "merge keys are not part of the recipe language; shared settings go under `defaults`"
                raise RecipeError(Problem(message, place))
            if key in value:
                raise RecipeError(Problem(f"the key `{key}` stands here a second time", place, (("first", keys[key]),)))
            keys[key] = place
            value[key] = self.build(child, depth + 1)
        return Node(value, where, keys)

    def place(self, node: Any) -> str:
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def override(root: Node, setting: str) -> Node:
    """The tree with `a.b.c=value` applied; the value is YAML. Raises RecipeError on a malformed setting."""
    origin = f"--set {setting}"
    path, sign, text = setting.partition("=")
    parts = path.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(Problem("a setting reads `path.to.key=value`", origin))
    value = parse(text, origin)
    return _put(root, parts, evolve(value, where=origin), origin)


def _put(node: Node, parts: list[str], value: Node, origin: str) -> Node:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(node.value, list):
        if not head.isdigit() or int(head) >= len(node.value):
            message = f"`{head}` is no place in the list of {len(node.value)} at {node.where}"
            raise RecipeError(Problem(message, origin))
        items = list(node.value)
        items[int(head)] = _put(items[int(head)], rest, value, origin)
        return Node(items, node.where, {})
    children = dict(node.value) if isinstance(node.value, dict) else {}
    children[head] = _put(children.get(head, Node(None, origin, {})), rest, value, origin)
    # A key that the file has keeps its place; one that the setting brings is placed at the setting.
    places = {key: node.keys.get(key, origin) for key in children}
    if not rest:
        places[head] = origin
    return Node(children, node.where, places)


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`, key by key and deeply; another `type` replaces the whole component."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    types = base.get("type"), over.get("type")
    if types[0] and types[1] and types[0].value != types[1].value:
        return over
    value = dict(base.value)
    for key, child in over.value.items():
        value[key] = merge(value[key], child) if key in value else child
    return Node(value, over.where, {**base.keys, **over.keys})
