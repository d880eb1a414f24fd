"""A batch against what its dataset declares: the fields, their shapes and types, and one entry for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.contracts import Field, SourceExtras
from fluxflow_registry.errors import DataError, Problem, counted, one_line
from fluxflow_registry.registry.signature import place_of


@frozen
class Declared:
    """The fields that a dataset of the recipe declares, by which each of its batches is checked."""

    dataset: str
    fields: Mapping[str, Field]

    def check(self, batch: object, samples: int, source: object, method: str = "batch") -> None:
        """Require that what `method` of a source returned are `samples` samples of these fields; raises DataError.

        Fields that are not declared are left alone, as long as they can be divided into samples.
        """
        problems = list(_problems(batch, samples, self.fields))
        if problems:
            where = place_of(source, method)
            notes = (("defined in", where),) if where is not None else ()
            who = f"`{method}` of dataset `{self.dataset}`"
            raise DataError(
                [
                    Problem(f"{who} returned {what}", None, notes, code="wrong-return", subject=subject)
                    for subject, what in problems
                ]
            )


def source_wrong(source: Any) -> str | None:
    """What is wrong with the number of samples of a source, or with their buckets; None where nothing is."""
    try:
        length = len(source)
    except OverflowError:  # too many samples, which is another problem
        return None
    except Exception as error:
        return f"has no valid length: {one_line(error)}"
    buckets, views = SourceExtras.of(source).buckets, SourceExtras.of(source).views
    if views < 1:
        return f"has {views} views; a batch needs at least one"
    if buckets is not None:
        numbers = np.asarray(buckets)
        if numbers.shape != (length,):
            return f"has buckets of shape {list(numbers.shape)} for {counted(length, 'sample')}"
        if length and (numbers.dtype.kind not in "iu" or int(numbers.min()) < 0):
            return "has buckets that are not integers >= 0"
    return None


def _problems(batch: object, samples: int, fields: Mapping[str, Field]) -> Iterator[tuple[str, str]]:
    """For each wrong field its name, and what was returned for it."""
    if not isinstance(batch, Mapping):
        yield "batch", f"a {type(batch).__name__}, not a mapping of fields"
        return
    for name, declared in fields.items():
        if name not in batch:
            yield name, f"no field `{name}`, which `fields` declares"
            continue
        wrong = _wrong(batch[name], samples, declared)
        if wrong is not None:
            yield name, f"{wrong} as field `{name}`; `fields` declares {_words(declared)}"
    for name in batch.keys() - fields.keys():
        entries = _entries(batch[name])
        if entries != samples:
            what = f"`{name}`, which `fields` does not declare"
            yield str(name), f"a field {what}, without one entry for each of {counted(samples, 'sample')}"
    varying = {name: _forms(batch[name], each) for name, each in fields.items() if each.also and name in batch}
    if varying and all(varying.values()) and not set.intersection(*varying.values()):
        names = ", ".join(f"`{name}` {list(batch[name].shape[1:])}" for name in varying)
        yield names, f"fields whose shapes do not belong together: {names}; `fields` declares which do"


def _wrong(value: object, samples: int, declared: Field) -> str | None:
    """What was returned in place of a field; None where it is right."""
    if declared.shape is None:
        if not isinstance(value, (list, tuple)):
            return _described(value)
        others = [entry for entry in value if not isinstance(entry, str)]
        if others:
            return f"a list with a {type(others[0]).__name__}"
        return None if len(value) == samples else f"{counted(len(value), 'string')} for {counted(samples, 'sample')}"
    if not isinstance(value, Tensor):
        return _described(value)
    if value.dtype != getattr(torch, declared.dtype):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    if not value.ndim or tuple(value.shape[1:]) not in _shapes(declared):
        return f"a tensor of shape {list(value.shape)}"
    return None if len(value) == samples else f"a tensor of {counted(len(value), 'sample')} instead of {samples}"


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return "a numpy array (`torch.from_numpy(x)` converts it)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _words(declared: Field) -> str:
    if declared.shape is None:
        return "a list of strings, one for each sample"
    shapes = " or ".join(str(list(shape)) for shape in _shapes(declared))
    return f"a tensor of {declared.dtype}, {shapes} for each sample"


def _shapes(declared: Field) -> list[tuple[int, ...]]:
    return [tuple(shape) for shape in (declared.shape, *declared.also) if shape is not None]


def _entries(value: Any) -> int:
    """How many entries a value has that can be divided into samples; -1 for one that cannot."""
    divisible = isinstance(value, (Sequence, np.ndarray, Tensor)) and getattr(value, "ndim", 1) > 0
    return len(value) if divisible else -1


def _forms(value: Any, declared: Field) -> set[int]:
    """Which of its shapes a field has, by number."""
    shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else None
    return {number for number, each in enumerate(_shapes(declared)) if each == shape}
