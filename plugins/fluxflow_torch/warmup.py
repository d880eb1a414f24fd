"""A linear warm-up in front of any scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

#: Where a warm-up starts, as a share of the full rate.
START_FACTOR = 0.01


def with_warmup(optimizer: Optimizer, warmup: int, build: Callable[[], LRScheduler]) -> LRScheduler:
    """The scheduler that `build` returns, behind a linear rise over `warmup` intervals."""
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    if warmup == 0:
        return build()
    rise = LinearLR(optimizer, start_factor=START_FACTOR, total_iters=warmup)
    return SequentialLR(optimizer, [rise, build()], milestones=[warmup])
