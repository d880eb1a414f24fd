"""`--set a.b.c=value`: one value of a recipe changed from the command line, with the same checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attrs import evolve, field, frozen

from fluxflow_registry.errors import Choices, Flag, Location, Problem, RecipeError, to_location
from fluxflow_registry.recipe.node import Node, expanded
from fluxflow_registry.recipe.reader import MAX_DEPTH, parse


@frozen
class Setting:
    """`a.b.c=value`, and the location that its problems have: the flag with which the user set it."""

    text: str
    origin: Location = field(converter=to_location)


def override(root: Node, setting: str | Setting) -> Node:
    """The tree with `a.b.c=value` applied; the value is YAML.

    Raises RecipeError where the setting is malformed or would have no effect.
    """
    origin = setting.origin if isinstance(setting, Setting) else Flag("--set", setting)
    path, sign, text = (setting.text if isinstance(setting, Setting) else setting).partition("=")
    parts = path.strip().split(".")
    if not sign or not all(parts) or len(parts) > MAX_DEPTH:
        raise RecipeError(Problem("a setting must have the form `path.to.key=value`", origin, code="malformed-setting"))
    try:
        value = parse(text, str(origin))
    except RecipeError as error:
        raise RecipeError([evolve(problem, where=origin) for problem in error.problems]) from None
    if value.value is False:
        require_present(root, parts, origin)
    return _put(root, parts, _placed(value, origin), origin)


def with_settings(root: Node, settings: Iterable[str | Setting]) -> Node:
    """The tree with all settings applied in their order."""
    written = root
    for setting in settings:
        root = override(root, setting)
    return _without_removed_observers(written, root)


def _without_removed_observers(written: Node, root: Node) -> Node:
    """The tree without observers under a label of the file's own that a setting removes.

    One whose label is its type stays `false`: it may be one that joins every run.
    """
    before, after = written.get("observers"), root.get("observers")
    if before is None or after is None or not (isinstance(before.value, dict) and isinstance(after.value, dict)):
        return root
    own = {label for label, node in before.value.items() if _type(node) not in (None, label)}
    removed = {label for label in own & set(after.value) if after.value[label].value is False}
    return Node({**root.value, "observers": after.without(removed)}, root.where, root.keys)


def _type(node: Node) -> str | None:
    """The type of a component's entry, which may be its name alone."""
    written = node if isinstance(node.value, str) else node.get("type")
    return written.value if written is not None and isinstance(written.value, str) else None


def _placed(node: Node, origin: Location) -> Node:
    """The value with the setting as the location of all its parts."""
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
            message = f"`{head}` is not an index of the list of {len(items)} at {node.where}"
            raise RecipeError(Problem(message, origin, code="unknown-name", subject=head))
        items[head] = _put(items[head], rest, value, origin)
        return Node(list(items.values()), node.where, {})
    if not isinstance(node.value, dict):  # a mapping replaces a scalar; a name alone is its `type`
        short = expanded(node) if isinstance(node.value, str) else Node({}, origin, {})
        node = evolve(short, where=origin)
    child = _put(node.value.get(head, Node(None, origin, {})), rest, value, origin)
    # A key of the file keeps its location; one that the setting adds is located at the setting.
    place = node.keys.get(head, origin) if rest else origin
    return Node({**node.value, head: child}, node.where, {**node.keys, head: place})


#: Where a recipe has names of its own: at its top and in a step. Observers are left out, since some join every run.
_TOP = (("models",), ("datasets",), ("values",), ("steps",))
_STEP = (("values",), ("updates",), ("updates", "*", "losses"), ("evaluate",), ("evaluate", "*", "metrics"))
_PATHS = {*_TOP, *(("steps", "*", *rest) for rest in _STEP), *(("defaults", *rest) for rest in _STEP)}


def require_present(root: Node, path: Sequence[str], origin: Location) -> None:
    """Raise RecipeError where `path` is a name that the recipe does not have.

    Where the parent of the name is missing itself, checking reports that: a step without updates, for example.
    """
    *above, label = path
    parents = [parent for parent in _parents(root, above[:-1]) if parent is not None]
    if not any(_matches(above, pattern) for pattern in _PATHS) or not parents:
        return
    known = {name for parent in parents for name in _names(parent, above[-1])}
    if above[-1] == "values":  # those of the recipe are values of each step
        known |= _names(root, "values")
    if label not in known:
        message = f"cannot remove `{label}`: there is no such name under `{'.'.join(above)}`"
        raise RecipeError(
            Problem(message, origin, code="unknown-name", subject=label, choices=Choices.of(label, known))
        )


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(path) == len(pattern) and all(key in (part, "*") for part, key in zip(path, pattern, strict=True))


def _parents(root: Node, path: Sequence[str]) -> Iterator[Node | None]:
    """The node at a path in the step itself, and in `defaults`."""
    yield _at(root, path)
    if path[:1] == ["steps"] and _at(root, path[:2]) is not None:
        yield _at(root, ["defaults", *path[2:]])


def _at(node: Node, path: Sequence[str]) -> Node | None:
    found: Node | None = node
    for part in path:
        found = found.get(part) if found is not None else None
    return found


def _names(parent: Node, key: str) -> set[str]:
    named = parent.get(key)
    return set(named.value) if named is not None and isinstance(named.value, dict) else set()
