"""`--set a.b.c=value`: one value of a recipe changed from the command line, with the same checks."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, field, frozen

from fluxflow_registry.errors import Flag, Location, Problem, RecipeError
from fluxflow_registry.errors.place import to_location
from fluxflow_registry.recipe.node import Node, spelt_out
from fluxflow_registry.recipe.reader import MAX_DEPTH, parse
from fluxflow_registry.recipe.removals import refuse_absent


@frozen
class Setting:
    """`a.b.c=value`, and what the user typed to mean it."""

    text: str
    origin: Location = field(converter=to_location)


def override(root: Node, setting: str | Setting) -> Node:
    """The tree with `a.b.c=value` applied; the value is YAML. Raises RecipeError on a malformed or vain one."""
    origin = setting.origin if isinstance(setting, Setting) else Flag("--set", setting)
    path, sign, text = (setting.text if isinstance(setting, Setting) else setting).partition("=")
    parts = path.strip().split(".")
    if not sign or not all(parts) or len(parts) > MAX_DEPTH:
        raise RecipeError(Problem("a setting reads `path.to.key=value`", origin))
    try:
        value = parse(text, str(origin))
    except RecipeError as error:
        raise RecipeError([evolve(problem, where=origin) for problem in error.problems]) from None
    if value.value is False:
        refuse_absent(root, parts, origin)
    return _put(root, parts, _placed(value, origin), origin)


def overridden(root: Node, settings: Iterable[str | Setting]) -> Node:
    """The tree with all settings applied in their order; what they take away is gone."""
    written = root
    for setting in settings:
        root = override(root, setting)
    return _without_withdrawn(written, root)


def _without_withdrawn(written: Node, root: Node) -> Node:
    """The tree without observers of the file's own label that a setting takes away.

    One whose label is its type stays `false`: it may be one that joins every run.
    """
    before, after = written.get("observers"), root.get("observers")
    if before is None or after is None or not (isinstance(before.value, dict) and isinstance(after.value, dict)):
        return root
    own = {label for label, node in before.value.items() if _type(node) not in (None, label)}
    gone = {label for label in own & set(after.value) if after.value[label].value is False}
    return Node({**root.value, "observers": after.without(gone)}, root.where, root.keys)


def _type(node: Node) -> str | None:
    """The type that a component states, be it by its name alone."""
    stated = node if isinstance(node.value, str) else node.get("type")
    return stated.value if stated is not None and isinstance(stated.value, str) else None


def _placed(node: Node, origin: Location) -> Node:
    """The value with the setting as the place of all its parts."""
    value = node.value
    if isinstance(value, list):
        return Node([_placed(item, origin) for item in value], origin, {})
    if isinstance(value, dict):
        return Node({key: _placed(child, origin) for key, child in value.items()}, origin, dict.fromkeys(value, origin))
    return Node(value, origin, {})


def _put(node: Node, parts: list[str], value: Node, origin: Location) -> Node:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(node.value, list):
        items = dict(zip(map(str, range(len(node.value))), node.value, strict=True))
        if head not in items:
            message = f"`{head}` is no place in the list of {len(items)} at {node.where}"
            raise RecipeError(Problem(message, origin))
        items[head] = _put(items[head], rest, value, origin)
        return Node(list(items.values()), node.where, {})
    if not isinstance(node.value, dict):  # a scalar gives way to a mapping; a name alone is its `type`
        short = spelt_out(node) if isinstance(node.value, str) else Node({}, origin, {})
        node = evolve(short, where=origin)
    child = _put(node.value.get(head, Node(None, origin, {})), rest, value, origin)
    # A key that the file has keeps its place; one that the setting brings is placed at the setting.
    place = node.keys.get(head, origin) if rest else origin
    return Node({**node.value, head: child}, node.where, {**node.keys, head: place})
