"""What a setting `path=false` removes must exist: a misspelled name would be removed silently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fluxflow_registry.errors import Choices, Location, Problem, RecipeError
from fluxflow_registry.recipe.node import Node

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
