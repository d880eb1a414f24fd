"""torch's ReduceLROnPlateau behind a warm-up; torch's SequentialLR cannot contain it."""

from __future__ import annotations

from typing import Any, SupportsFloat

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .warmup import START_FACTOR


class WarmedUpPlateau(ReduceLROnPlateau):
    """Raises the rates linearly over the first `warmup` epochs, and monitors the metric from then on.

    Checkpoints contain the attributes by their names.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.warmup = warmup
        self.risen = 0
        self.full = [float(group["lr"]) for group in optimizer.param_groups]
        self._set_rates()

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Raise the rates for one epoch, or let the plateau see the epoch's metric."""
        if self.risen == self.warmup:
            super().step(metrics, epoch)
            return
        self.risen += 1
        self._set_rates()

    def _set_rates(self) -> None:
        share = START_FACTOR + (1 - START_FACTOR) * self.risen / self.warmup
        for group, rate in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = rate if self.risen == self.warmup else rate * share
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
