"""The device that a command computes on."""

from __future__ import annotations

import torch

from fluxflow_registry.errors import Choices, Flag, Problem, RecipeError


def device_of(name: str | None) -> torch.device:
    """The device of that name, or the best available; raises RecipeError for one that is not available."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("the meta device computes no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        message, choices = f"there is no device `{name}`", Choices.of(name, _devices())
        where = Flag("--device")
        raise RecipeError(Problem(message, where, code="unknown-name", subject=name, choices=choices)) from None
    return device


def _devices() -> list[str]:
    found = ["cpu"]
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])
