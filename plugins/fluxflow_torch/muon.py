"""torch's Muon for matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) steps the parameters with two dimensions, AdamW the others.

    Both work on the groups and the state of this one, which is what schedulers move and checkpoints hold.
    Raises RuntimeError where torch has no Muon.
    """

    def __init__(self, parameters: Iterable[Parameter], muon: Mapping[str, Any], adamw: Mapping[str, Any]) -> None:
        make = getattr(torch.optim, "Muon", None)
        if make is None:
            raise RuntimeError(f"torch {torch.__version__} has no Muon; 2.9 is the first that does")
        every = list(parameters)
        matrices = [parameter for parameter in every if parameter.ndim == 2]
        others = [parameter for parameter in every if parameter.ndim != 2]
        parts = [
            *([make(matrices, **muon)] if matrices else []),
            *([torch.optim.AdamW(others, **adamw)] if others else []),
        ]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Let both step, on what a scheduler or a checkpoint may have put in place since the last time."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]
            part.state = self.state
            part.step()
        return loss
