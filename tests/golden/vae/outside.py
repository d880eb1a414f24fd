"""A plugin of somebody else, written for the version before: a loss that keeps a running mean.

It has to work as it is, so it is never adapted to a newer version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from fluxflow_registry import Register, hookimpl


@define
class RunningL1:
    """Mean of |reconstruction - image| over its own running mean."""

    not_finite_at: int
    """The batch of the step on which it is not finite."""

    mean: Tensor = field(init=False, factory=lambda: torch.ones(()))
    batches: int = field(init=False, default=0)

    def __call__(self, reconstruction: Tensor, image: Tensor, step_batch: int) -> Tensor:
        """Divide by the running mean, and move that towards this batch's."""
        now = (reconstruction - image).abs().mean()
        if not now.is_meta:
            self.mean, self.batches = 0.9 * self.mean + 0.1 * now.detach(), self.batches + 1
        return now / self.mean * (math.nan if step_batch == self.not_finite_at else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The running mean, and of how many batches it is."""
        return {"mean": self.mean, "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take both back."""
        self.mean, self.batches = state["mean"], state["batches"]


@hookimpl
def fluxflow_register_losses(register: Register) -> None:
    """Register it."""
    register("running_l1", RunningL1)
