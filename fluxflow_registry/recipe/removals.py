"""What a setting `path=false` takes away has to be there: a misspelt name would be taken away in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fluxflow_registry.errors import Location, Problem, RecipeError, choices
from fluxflow_registry.recipe.node import Node

#: Where a recipe has names of its own, at its top and in a step; observers may join without being named.
_TOP = (("models",), ("datasets",), ("values",), ("steps",))
_STEP = (("values",), ("updates",), ("updates", "*", "losses"), ("evaluate",), ("evaluate", "*", "metrics"))
_PLACES = {*_TOP, *(("steps", "*", *rest) for rest in _STEP), *(("defaults", *rest) for rest in _STEP)}


def refuse_absent(root: Node, path: Sequence[str], origin: Location) -> None:
    """Raise RecipeError where `path` is a name that nothing in the recipe has.

    Where what has the names is not there itself, checking tells so: that step, for one, has no updates.
    """
    *above, label = path
    owners = [owner for owner in _owners(root, above[:-1]) if owner is not None]
    if not any(_fits(above, place) for place in _PLACES) or not owners:
        return
    known = {name for owner in owners for name in _names(owner, above[-1])}
    if above[-1] == "values":  # those of the recipe are values of each step
        known |= _names(root, "values")
    if label not in known:
        message = f"`{'.'.join(above)}` has no `{label}` that could be taken away"
        raise RecipeError(Problem(message, origin, choices(label, known, above[-1])))


def _fits(path: Sequence[str], place: Sequence[str]) -> bool:
    return len(path) == len(place) and all(key in (part, "*") for part, key in zip(path, place, strict=True))


def _owners(root: Node, path: Sequence[str]) -> Iterator[Node | None]:
    """What stands at a path, in the step itself and in what all steps share."""
    yield _at(root, path)
    if path[:1] == ["steps"] and _at(root, path[:2]) is not None:
        yield _at(root, ["defaults", *path[2:]])


def _at(node: Node, path: Sequence[str]) -> Node | None:
    found: Node | None = node
    for part in path:
        found = found.get(part) if found is not None else None
    return found


def _names(owner: Node, key: str) -> set[str]:
    named = owner.get(key)
    return set(named.value) if named is not None and isinstance(named.value, dict) else set()
