"""torch's ReduceLROnPlateau behind a warm-up, which torch cannot put before it."""

from __future__ import annotations

from typing import Any, SupportsFloat

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fluxflow_torch.schedulers import FIRST


class WarmedUpPlateau(ReduceLROnPlateau):
    """Lets the rates rise linearly over the first `warmup` epochs, and watches the loss from then on."""

    def __init__(self, optimizer: Optimizer, warmup: int, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.warmup = warmup
        self.risen = 0
        self.full = [float(group["lr"]) for group in optimizer.param_groups]
        self._rise()

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Rise by one epoch's share, or look at the epoch's loss."""
        if self.risen == self.warmup:
            super().step(metrics, epoch)
            return
        self.risen += 1
        self._rise()

    def _rise(self) -> None:
        share = FIRST + (1 - FIRST) * self.risen / self.warmup
        for group, rate in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = rate if self.risen == self.warmup else rate * share
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
