"""`--set a.b.c=value`: one value of a recipe changed from the command line, with the same checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve, frozen

from fluxflow_registry.errors import Flag, Location, Note, RecipeError
from fluxflow_registry.recipe.node import Node, as_node, expanded
from fluxflow_registry.recipe.reader import MAX_DEPTH, parse


@frozen
class Setting:
    """`a.b.c=value`, and the location that its problems have: the flag with which the user set it."""

    text: str
    origin: Location


def override(root: Node, setting: str | Setting) -> Node:
    """The tree with `a.b.c=value` applied; the value is YAML.

    Raises RecipeError where the setting is malformed or would have no effect.
    """
    if isinstance(setting, str):
        setting = Setting(setting, Flag("--set", setting))
    origin = setting.origin
    path, sign, text = setting.text.partition("=")
    parts = path.strip().split(".")
    if not sign or not all(parts) or len(parts) > MAX_DEPTH:
        raise RecipeError("a setting must have the form `path.to.key=value`", origin, code="malformed-setting")
    try:
        value = parse(text, str(origin))
    except RecipeError as error:
        notes = _quoted(path.strip(), text.strip()) if isinstance(origin, Flag) and origin.flag == "--set" else ()
        problems = [evolve(each, where=origin, notes=(*each.notes, *notes)) for each in error.problems]
        raise RecipeError(problems) from None
    if value.value is False:
        require_present(root, parts, origin)
    return _put(root, parts, as_node(value.plain(), origin), origin)


def _quoted(path: str, text: str) -> tuple[Note, ...]:
    """How to set text that YAML reads as something else, such as `*.tar` or `{0..2}.tar`."""
    if not text or any(mark in text for mark in "'\"\\\n"):
        return ()
    quoted = f'{path}="{text}"'
    return (("hint", f"if the value is text, quote it for YAML: --set '{quoted}'"),)


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
    own = [label for label, node in written.under("observers").items() if _type(node) not in (None, label)]
    removed = [label for label, node in root.under("observers").items() if node.value is False and label in own]
    if not removed:
        return root
    return Node({**root.value, "observers": root.value["observers"].without(removed)}, root.where, root.keys)


def _type(node: Node) -> str | None:
    """The type of a component's entry, which may be its name alone."""
    written = node if isinstance(node.value, str) else node.get("type")
    return written.value if written is not None and isinstance(written.value, str) else None


def _put(node: Node, parts: list[str], value: Node, origin: Location) -> Node:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(node.value, list):
        items = dict(zip(map(str, range(len(node.value))), node.value, strict=True))
        if head not in items:
            message = f"`{head}` is not an index of the list of {len(items)} at {node.where}"
            raise RecipeError(message, origin, code="unknown-name", subject=head)
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
    parents = _parents(root, above[:-1])
    if not parents or not any(_matches(above, pattern) for pattern in _PATHS):
        return
    if above[-1] == "values":  # those of the recipe are values of each step
        parents.append(root)
    known = {name for parent in parents for name in parent.under(above[-1])}
    if label not in known:
        message = f"cannot remove `{label}`: there is no such name under `{'.'.join(above)}`"
        raise RecipeError(message, origin, code="unknown-name", subject=label, choices=known)


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(path) == len(pattern) and all(key in (part, "*") for part, key in zip(path, pattern, strict=True))


def _parents(root: Node, path: Sequence[str]) -> list[Node]:
    """What there is at a path: in the step itself, and in `defaults`."""
    paths = [path]
    if path[:1] == ["steps"] and root.find(*path[:2]) is not None:
        paths.append(["defaults", *path[2:]])
    return [found for each in paths if (found := root.find(*each)) is not None]
