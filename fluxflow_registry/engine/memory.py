"""Memory: what a recipe needs at least, against what the machine has, before torch fails to allocate it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from fluxflow_registry.contracts import Field, variants
from fluxflow_registry.errors import Location, Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan

#: Bytes of a sample's number in an order.
_INDEX = 8


def memory_of_machine() -> float:
    """Bytes of memory and swap; infinite where the system does not report them, or lends more than it reports."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
        sizes = {words[0]: int(words[1]) << 10 for words in lines}
        return sizes["MemTotal:"] + sizes["SwapTotal:"]
    return math.inf


def size_problem(name: str, source: Sized, where: Location, ordered: bool) -> Problem | None:
    """The problem of a dataset with too many samples to count or, if they are `ordered`, to hold an order of them."""
    try:
        samples = len(source)
    except OverflowError:  # Python's own limit
        message = f"dataset `{name}` has too many samples: at most {2**63 - 1:,} can be counted"
        return Problem(message, where, code="out-of-range", subject=name)
    what = f"dataset `{name}` has {samples:,} samples: their order"
    return _excess(what, samples * _INDEX * ordered, where, "use fewer samples", name)


def require_batches(plan: RecipePlan) -> None:
    """Raise RecipeError for each step and evaluation one batch of which does not fit into the memory."""
    problems: list[Problem | None] = []
    for step in plan.steps:
        size = step.settings.batch_size
        what = f"a batch of {size:,} samples in step `{step.name}`"
        hint = "lower `batch_size` or the size of the images"
        problems.append(_excess(what, size * _sample(step.fields), step.entry.where, hint, step.name))
    found = [problem for problem in problems if problem is not None]
    if found:
        raise RecipeError(found)


def require_models(plan: RecipePlan, models: Mapping[str, nn.Module], device: torch.device) -> None:
    """Raise RecipeError if the weights of the models alone do not fit into the memory of the device."""
    sizes = {name: sum(_bytes(model)) for name, model in models.items()}
    has = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_of_machine()
    total = sum(sizes.values())
    if total > has and sizes:
        largest = max(sizes, key=lambda name: sizes[name])
        hint = ("hint", f"lower the options that set the size of model `{largest}`")
        received = tuple(("received", f"model `{name}`: {_gigabytes(size)}") for name, size in sizes.items())
        message = f"the weights of the models take {_gigabytes(total)}, but the device has {_gigabytes(has)} of memory"
        raise RecipeError(message, plan.models[largest].where, (*received, hint), code="out-of-memory", subject=largest)


def _bytes(model: nn.Module) -> Iterator[int]:
    tensors: Iterable[torch.Tensor] = (*model.parameters(), *model.buffers())
    return (tensor.numel() * tensor.element_size() for tensor in tensors)


def _sample(fields: Mapping[str, Field]) -> int:
    """Bytes of a sample in the largest form of a batch; of a text, of the reference to it."""
    return max(
        sum(
            _INDEX if field.shape is None else math.prod(field.shape) * getattr(torch, field.dtype).itemsize
            for field in form.values()
        )
        for form in variants(fields)
    )


def _excess(what: str, needed: int, where: Location, hint: str, subject: str) -> Problem | None:
    has = memory_of_machine()
    if needed <= has:
        return None
    message = f"{what} takes {_gigabytes(needed)}, but the machine has {_gigabytes(has)} of memory"
    return Problem(message, where, [("hint", hint)], code="out-of-memory", subject=subject)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
