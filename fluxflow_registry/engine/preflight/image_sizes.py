"""Sizes of images with which a step can be computed where those of its dataset do not fit, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attrs import evolve, frozen

from fluxflow_registry.contracts import Field
from fluxflow_registry.errors import Location
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

#: Of what the sides of images may have to be multiples.
MULTIPLES = (2, 4, 8, 16, 32, 64, 128)

Fields = Mapping[str, Field]


@frozen
class FittingSizes:
    """The multiples of a number that are nearest to the size of the images: with them the step can be computed."""

    multiple: int
    #: The shorter sides of smaller and larger images.
    sides: tuple[int, ...]

    def hint(self, label: str, dataset: ConfiguredComponent, side: int) -> tuple[str, Location | None]:
        """How to fix it, and where the recipe sets the size: at the only option of the dataset that is the side."""
        sides = " or ".join(map(str, self.sides))
        options = fields_of(type(dataset.instance)) if is_configurable(dataset.component.factory) else ()
        keys = [key_of(option) for option in options if getattr(dataset.instance, option.name) == side]
        if len(keys) != 1 or dataset.entry is None:
            return f"use images whose sides are multiples of {self.multiple}, such as {sides}", None
        hint = f"set `datasets.{label}.{keys[0]}` to a multiple of {self.multiple}, such as {sides}"
        return hint, dataset.entry.node.at(keys[0])


def sizes_that_fit(fields: Fields, fits: Callable[[Fields], bool]) -> FittingSizes | None:
    """The sizes nearest to that of `image` with which all fields that have it would fit; None where no size helps."""
    image = fields.get("image")
    if image is None or image.shape is None or len(image.shape) < 2:
        return None
    size = image.shape[-2:]
    for multiple in MULTIPLES:
        smaller = tuple(side // multiple * multiple for side in size)
        larger = tuple(side + multiple for side in smaller)
        nearest = [each for each in (smaller, larger) if min(each) > 0]
        if smaller != size and all(fits(_resized(fields, size, each)) for each in nearest):
            return FittingSizes(multiple, tuple(min(each) for each in nearest))
    return None


def _resized(fields: Fields, size: Iterable[int], other: Iterable[int]) -> Fields:
    size, other = tuple(size), tuple(other)
    return {
        name: evolve(field, shape=(*field.shape[:-2], *other)) if field.shape and field.shape[-2:] == size else field
        for name, field in fields.items()
    }
