"""torch's Muon for matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for parameters with two dimensions, AdamW for all others.

    Both use the groups and the state of this optimizer, which schedulers change and checkpoints contain.
    Raises RuntimeError if torch has no Muon.
    """

    def __init__(self, parameters: Iterable[Parameter], muon: Mapping[str, Any], adamw: Mapping[str, Any]) -> None:
        build_muon = getattr(torch.optim, "Muon", None)
        if build_muon is None:
            raise RuntimeError(f"torch {torch.__version__} has no Muon: install torch 2.9 or newer")
        every = list(parameters)
        matrices = [parameter for parameter in every if parameter.ndim == 2]
        others = [parameter for parameter in every if parameter.ndim != 2]
        parts = [
            *([build_muon(matrices, **muon)] if matrices else []),
            *([torch.optim.AdamW(others, **adamw)] if others else []),
        ]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Let both update, with groups and state as a scheduler or a checkpoint may have changed them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]
            part.state = self.state
            part.step()
        return loss
