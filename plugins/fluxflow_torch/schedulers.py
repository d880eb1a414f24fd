"""Builders of torch's schedulers; `total` is the number of intervals of the step.

An `interval` is an epoch (torch's own meaning) or a batch. For the first `warmup` intervals the rate rises linearly
from a hundredth; then the schedule itself starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, evolve, field, frozen, validators

from fluxflow_registry import Better

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

#: Where a warm-up starts, as a share of the full rate.
START_FACTOR = 0.01

Interval = Literal["batch", "epoch"]

#: Options of torch that are left out, and where their value comes from; a test compares all others with torch's
#: signatures.
LEFT_OUT: Mapping[str, str] = {
    "optimizer": "the update's",
    "last_epoch": "checkpoints contain it",
    "eta_min": "eta_min_factor, a share of any lr",
    "max_lr": "the optimizer's lr",
    "total_steps": "the step's",
    "epochs": "the step's",
    "steps_per_epoch": "the step's",
}


def with_warmup(optimizer: Optimizer, warmup: int, build: Callable[[], LRScheduler]) -> LRScheduler:
    """The scheduler that `build` returns, behind a linear rise over `warmup` intervals."""
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    if warmup == 0:
        return build()
    rise = LinearLR(optimizer, start_factor=START_FACTOR, total_iters=warmup)
    return SequentialLR(optimizer, [rise, build()], milestones=[warmup])


def _count(default: int) -> Any:
    return field(default=default, validator=validators.ge(0))


def _factor(default: float) -> Any:
    return field(default=default, validator=[validators.gt(0), validators.le(1)])


def _optional_count() -> Any:
    return field(default=None, validator=validators.optional(validators.ge(1)))


@frozen(kw_only=True)
class _Schedule:
    interval: Interval = "epoch"
    """What an interval is."""
    warmup: int = _count(0)
    """Intervals of a linear rise before the schedule starts."""


@frozen
class CosineAnnealingLRBuilder(_Schedule):
    """torch's CosineAnnealingLR: lr falls as a half cosine from lr to eta_min_factor * lr (Loshchilov, 2017)."""

    eta_min_factor: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """The last rate as a share of the first."""
    T_max: int | None = _optional_count()
    """Intervals of the descent; null: until the planned end of the step."""

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

        t_max = self.T_max or max(total - self.warmup, 1)
        rates = {group["lr"] for group in optimizer.param_groups}
        if len(rates) > 1:  # torch's has one last rate for all groups
            share = self.eta_min_factor
            wave = lambda n: share + (1 - share) * (1 + math.cos(math.pi * n / t_max)) / 2  # noqa: E731
            return with_warmup(optimizer, self.warmup, lambda: LambdaLR(optimizer, wave))
        eta_min = self.eta_min_factor * rates.pop()
        return with_warmup(optimizer, self.warmup, lambda: CosineAnnealingLR(optimizer, t_max, eta_min=eta_min))


@frozen
class StepLRBuilder(_Schedule):
    """torch's StepLR: lr is multiplied by gamma every step_size intervals: lr gamma^floor(n / step_size)."""

    step_size: int | None = _optional_count()
    """Intervals between two reductions; null: a tenth of the step."""
    gamma: float = _factor(0.1)
    """Factor of each reduction."""

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import StepLR

        step_size = self.step_size or max(total // 10, 1)
        return with_warmup(optimizer, self.warmup, lambda: StepLR(optimizer, step_size, self.gamma))


@frozen
class ExponentialLRBuilder(_Schedule):
    """torch's ExponentialLR: lr is multiplied by gamma at every interval."""

    gamma: float = _factor(0.99)
    """Factor of each interval."""

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ExponentialLR

        return with_warmup(optimizer, self.warmup, lambda: ExponentialLR(optimizer, self.gamma))


@frozen
class LinearLRBuilder(_Schedule):
    """torch's LinearLR: lr goes linearly from start_factor to end_factor over total_iters intervals."""

    start_factor: float = _factor(1 / 3)
    """The first rate as a share of lr."""
    end_factor: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    """The last rate as a share of lr."""
    total_iters: int | None = _optional_count()
    """Intervals of the change; null: until the planned end of the step."""

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import LinearLR

        factors, iters = (self.start_factor, self.end_factor), self.total_iters or max(total - self.warmup, 1)
        return with_warmup(optimizer, self.warmup, lambda: LinearLR(optimizer, *factors, iters))


@frozen
class ConstantLRBuilder(_Schedule):
    """torch's ConstantLR: lr is multiplied by factor for the first total_iters intervals."""

    factor: float = _factor(1 / 3)
    """Share of lr at the start."""
    total_iters: int = field(default=5, validator=validators.ge(1))
    """Intervals until lr has its full value."""

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ConstantLR

        return with_warmup(optimizer, self.warmup, lambda: ConstantLR(optimizer, self.factor, self.total_iters))


@frozen
class OneCycleLRBuilder(_Schedule):
    """torch's OneCycleLR: lr rises to the optimizer's lr and falls far below its first value (Smith, 2018)."""

    pct_start: float = field(default=0.3, validator=[validators.gt(0), validators.lt(1)])
    """Share of the step in which lr rises."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Shape of the rise and the fall."""
    cycle_momentum: bool = False
    """Whether momentum, or the first beta, changes in the opposite direction of lr."""
    base_momentum: float = field(default=0.85, validator=[validators.ge(0), validators.lt(1)])
    """Smallest momentum of the cycle."""
    max_momentum: float = field(default=0.95, validator=[validators.ge(0), validators.lt(1)])
    """Largest momentum of the cycle."""
    div_factor: float = field(default=25.0, validator=validators.ge(1))
    """The first rate is lr / div_factor."""
    final_div_factor: float = field(default=1e4, validator=validators.ge(1))
    """The last rate is the first / final_div_factor."""
    three_phase: bool = field(default=False)
    """Whether lr first falls to its first value as fast as it rose, then below it; pct_start is at most 0.5."""
    interval: Interval = field(default="batch", kw_only=True)
    """What an interval is."""
    warmup: int = field(default=0, kw_only=True, validator=validators.ge(0))
    """Intervals of a linear rise before the schedule starts."""

    @three_phase.validator
    def _short_enough(self, _: Any, three_phase: bool) -> None:
        if three_phase and self.pct_start > 0.5:
            raise ValueError(f"three_phase needs a pct_start of at most 0.5, got {self.pct_start:g}")

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import OneCycleLR

        rates = [group["lr"] for group in optimizer.param_groups]
        steps = max(total - self.warmup, 1) + 1
        # torch divides by the length of the rise, which would be zero intervals here.
        rise = math.nextafter(self.pct_start, 0) if self.pct_start * steps == 1 else self.pct_start
        options = asdict(self, filter=lambda attribute, _: attribute.name not in ("interval", "warmup"))
        options["pct_start"] = rise
        return with_warmup(optimizer, self.warmup, lambda: OneCycleLR(optimizer, rates, steps, **options))


@frozen
class ReduceLROnPlateauBuilder:
    """torch's ReduceLROnPlateau: lr is reduced when a metric stops improving, epoch by epoch.

    The metric is the mean of the update's loss over the epoch, or any other that is logged or evaluated; epochs
    without an evaluation of it are not counted.
    """

    metric: str | None = None
    """A metric that the step logs, or `<evaluation>/<metric>` of one with `every`; null: the update's loss."""
    mode: Literal["min", "max"] | None = None
    """Whether lower (min) or higher (max) is better; null: as the metric defines it, min for losses."""
    factor: float = field(default=0.1, validator=[validators.gt(0), validators.lt(1)])
    """Factor of each reduction."""
    patience: int = _count(10)
    """Epochs without an improvement that are tolerated."""
    threshold: float = field(default=1e-4, validator=validators.ge(0))
    """Smallest change that counts as an improvement."""
    threshold_mode: Literal["rel", "abs"] = "rel"
    """Whether threshold is a share of the best value or a difference; use abs if the metric can be negative."""
    cooldown: int = _count(0)
    """Epochs after a reduction that are not counted."""
    min_lr: float = field(default=0.0, validator=validators.ge(0))
    """Smallest lr."""
    eps: float = field(default=1e-8, validator=validators.ge(0))
    """Reductions smaller than this are skipped."""
    interval: Literal["epoch"] = "epoch"
    """What an interval is."""
    warmup: int = _count(0)
    """Epochs of a linear rise before the schedule starts."""

    def directed(self, better: Better) -> ReduceLROnPlateauBuilder:
        """The same options with `mode` set to the direction of the metric."""
        lower = self.metric is None or better(self.metric) == "lower"
        return self if self.mode else evolve(self, mode="min" if lower else "max")

    def __call__(self, optimizer: Optimizer) -> ReduceLROnPlateau:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        from .classes import WarmedUpPlateau

        options = asdict(self, filter=lambda attribute, _: attribute.name not in ("metric", "interval", "warmup"))
        options["mode"] = self.mode or "min"
        if self.warmup == 0:
            return ReduceLROnPlateau(optimizer, **options)
        return WarmedUpPlateau(optimizer, self.warmup, **options)
