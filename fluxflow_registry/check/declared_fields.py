"""What a dataset declares as the fields of its batches: each a Field, with a shape and a type that a batch can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

from fluxflow_registry.contracts import Field
from fluxflow_registry.errors import Choices, Problem
from fluxflow_registry.plan.component import ConfiguredComponent

#: The types of numbers that a field may have, as torch calls them.
_NUMBERS = (
    *("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "bool"),
    *("uint8", "uint16", "uint32", "uint64", "complex64", "complex128"),
    *("float", "half", "double", "long", "int", "short"),
)


def declared_wrong(dataset: ConfiguredComponent, fields: object) -> Iterator[Problem]:
    """The problems of what `fields` of a dataset returned."""
    who = f"`fields` of dataset `{dataset.name}`"
    notes = (("defined in", dataset.definition),)
    if not isinstance(fields, Mapping):
        message = f"{who} returned a {type(fields).__name__}, not a mapping of names to `Field`s"
        yield Problem(message, dataset.where, notes, code="wrong-return", subject=dataset.label)
        return
    for name, field in fields.items():
        for what, instead, choices in (
            _wrong(field) if isinstance(name, str) else [("a name that is not a string", "", None)]
        ):
            message = f"{who} declares `{name}` with {what}"
            more = (("instead", instead),) if instead else ()
            yield Problem(
                message, dataset.where, (*more, *notes), code="wrong-return", subject=str(name), choices=choices
            )
    counts = {name: len(field.also) for name, field in fields.items() if isinstance(field, Field) and field.also}
    if len(set(counts.values())) > 1:
        message = f"{who} declares fields that vary together, but with different numbers of shapes: {counts}"
        yield Problem(message, dataset.where, notes, code="wrong-return", subject=dataset.label)


def _wrong(field: Any) -> Iterator[tuple[str, str, Choices | None]]:
    """What is wrong with a field, what to write instead, and the valid types."""
    if not isinstance(field, Field):
        instead = (
            f"Field({tuple(field)})" if _is_shape(field) else "Field((3, 64, 64)), or Field(None, 'text') for strings"
        )
        yield f"a {type(field).__name__}, not a `Field`", instead, None
    elif field.shape is None:
        if field.dtype != "text":
            yield (
                f"dtype `{field.dtype}` and no shape",
                "Field((), 'int64') for one number, Field(None, 'text') for strings",
                None,
            )
    else:
        for shape in (field.shape, *field.also):
            if not _is_shape(shape):
                yield f"the shape {shape!r}, not a tuple of positive integers", "Field((3, 64, 64))", None
        if field.dtype not in _NUMBERS:
            yield f"the unknown dtype `{field.dtype}`", "", Choices.of(str(field.dtype), _NUMBERS)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and all(isinstance(size, Integral) and int(size) > 0 for size in shape)
