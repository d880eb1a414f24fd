"""Options of torch's schedulers; `total` is the number of intervals of the step.

`interval` says what a scheduler counts, epochs (torch's own meaning) or batches. All take `warmup`: so many
intervals in which the rate rises linearly from a hundredth before the schedule proper begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, evolve, field, frozen, validators

from fluxflow_registry import Better

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.optim.lr_scheduler import ReduceLROnPlateau as _Plateau

Interval = Literal["batch", "epoch"]

#: The share of the rate with which a warm-up begins.
FIRST = 0.01

#: Options of torch's that have no use here, and why; a test holds the others against torch's signatures.
LEFT_OUT: Mapping[str, str] = {
    "optimizer": "the update's",
    "last_epoch": "checkpoints hold it",
    "eta_min": "eta_min_factor, a share, holds for any lr",
    "max_lr": "the optimizer's lr",
    "total_steps": "the step's",
    "epochs": "the step's",
    "steps_per_epoch": "the step's",
}


def _count(default: int) -> Any:
    return field(default=default, validator=validators.ge(0))


def _factor(default: float) -> Any:
    return field(default=default, validator=[validators.gt(0), validators.le(1)])


def _optional_count() -> Any:
    return field(default=None, validator=validators.optional(validators.ge(1)))


def warmed_up(optimizer: Optimizer, warmup: int, make: Callable[[], LRScheduler]) -> LRScheduler:
    """`make()` behind a linear rise from a hundredth of the rate over `warmup` intervals."""
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    if warmup == 0:
        return make()
    rise = LinearLR(optimizer, start_factor=FIRST, total_iters=warmup)
    return SequentialLR(optimizer, [rise, make()], milestones=[warmup])


@frozen
class CosineAnnealingLR:
    """torch's CosineAnnealingLR: lr falls as a half cosine from lr to eta_min_factor * lr (Loshchilov, 2017)."""

    eta_min_factor: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """The last rate as a share of the first."""
    T_max: int | None = _optional_count()
    """Intervals of the descent; None: to the step's planned end."""
    interval: Interval = "epoch"
    """What is counted."""
    warmup: int = _count(0)
    """Intervals of a linear rise before it."""

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

        t_max = self.T_max or max(total - self.warmup, 1)
        rates = {group["lr"] for group in optimizer.param_groups}
        if len(rates) > 1:  # torch's has one last rate for all groups
            share = self.eta_min_factor
            wave = lambda n: share + (1 - share) * (1 + math.cos(math.pi * n / t_max)) / 2  # noqa: E731
            return warmed_up(optimizer, self.warmup, lambda: LambdaLR(optimizer, wave))
        eta_min = self.eta_min_factor * rates.pop()
        return warmed_up(optimizer, self.warmup, lambda: CosineAnnealingLR(optimizer, t_max, eta_min=eta_min))


@frozen
class StepLR:
    """torch's StepLR: lr is multiplied by gamma every step_size intervals."""

    step_size: int = field(validator=validators.ge(1))
    """Intervals between two falls."""
    gamma: float = _factor(0.1)
    """Factor of each fall."""
    interval: Interval = "epoch"
    """What is counted."""
    warmup: int = _count(0)
    """Intervals of a linear rise before it."""

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import StepLR

        return warmed_up(optimizer, self.warmup, lambda: StepLR(optimizer, self.step_size, self.gamma))


@frozen
class ExponentialLR:
    """torch's ExponentialLR: lr is multiplied by gamma at every interval."""

    gamma: float = _factor(0.99)
    """Factor of each interval."""
    interval: Interval = "epoch"
    """What is counted."""
    warmup: int = _count(0)
    """Intervals of a linear rise before it."""

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ExponentialLR

        return warmed_up(optimizer, self.warmup, lambda: ExponentialLR(optimizer, self.gamma))


@frozen
class LinearLR:
    """torch's LinearLR: lr goes linearly from start_factor to end_factor over total_iters intervals."""

    start_factor: float = _factor(1 / 3)
    """The first rate as a share of lr."""
    end_factor: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    """The last rate as a share of lr."""
    total_iters: int | None = _optional_count()
    """Intervals of the change; None: to the step's planned end."""
    interval: Interval = "epoch"
    """What is counted."""
    warmup: int = _count(0)
    """Intervals of a linear rise before it."""

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import LinearLR

        iters = self.total_iters or max(total - self.warmup, 1)
        return warmed_up(optimizer, self.warmup, lambda: LinearLR(optimizer, self.start_factor, self.end_factor, iters))


@frozen
class ConstantLR:
    """torch's ConstantLR: lr is multiplied by factor for the first total_iters intervals."""

    factor: float = _factor(1 / 3)
    """Share of lr at the start."""
    total_iters: int = field(default=5, validator=validators.ge(1))
    """Intervals until lr is whole."""
    interval: Interval = "epoch"
    """What is counted."""
    warmup: int = _count(0)
    """Intervals of a linear rise before it."""

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ConstantLR

        return warmed_up(optimizer, self.warmup, lambda: ConstantLR(optimizer, self.factor, self.total_iters))


@frozen
class OneCycleLR:
    """torch's OneCycleLR: lr rises to the optimizer's lr and falls far below its start (Smith, 2018)."""

    pct_start: float = field(default=0.3, validator=[validators.gt(0), validators.lt(1)])
    """Share of the step in which lr rises."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Form of the rise and the fall."""
    cycle_momentum: bool = False
    """Whether momentum, or the first beta, falls while lr rises, and rises while it falls."""
    base_momentum: float = field(default=0.85, validator=[validators.ge(0), validators.lt(1)])
    """The least momentum of the cycle."""
    max_momentum: float = field(default=0.95, validator=[validators.ge(0), validators.lt(1)])
    """The greatest momentum of the cycle."""
    div_factor: float = field(default=25.0, validator=validators.ge(1))
    """The first rate is lr / div_factor."""
    final_div_factor: float = field(default=1e4, validator=validators.ge(1))
    """The last rate is the first / final_div_factor."""
    three_phase: bool = field(default=False)
    """Whether lr falls to its start as fast as it rose, and only then below it; pct_start is 0.5 at most."""
    interval: Interval = "batch"
    """What is counted."""
    warmup: int = _count(0)
    """Intervals of a linear rise to the first rate before it."""

    @three_phase.validator
    def _short_enough(self, _: Any, three_phase: bool) -> None:
        if three_phase and self.pct_start > 0.5:
            raise ValueError(f"three_phase needs a pct_start of 0.5 at most, not {self.pct_start:g}")

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import OneCycleLR

        rates = [group["lr"] for group in optimizer.param_groups]
        steps = max(total - self.warmup, 1) + 1
        # torch divides by the length of the rise, and this one would last no interval at all.
        rise = math.nextafter(self.pct_start, 0) if self.pct_start * steps == 1 else self.pct_start
        return warmed_up(
            optimizer,
            self.warmup,
            lambda: OneCycleLR(
                optimizer,
                max_lr=rates,
                total_steps=steps,
                pct_start=rise,
                anneal_strategy=self.anneal_strategy,
                cycle_momentum=self.cycle_momentum,
                base_momentum=self.base_momentum,
                max_momentum=self.max_momentum,
                div_factor=self.div_factor,
                final_div_factor=self.final_div_factor,
                three_phase=self.three_phase,
            ),
        )


@frozen
class ReduceLROnPlateau:
    """torch's ReduceLROnPlateau: lr falls when a metric stops getting better, epoch by epoch.

    The metric is the mean of the update's loss over the epoch, or any other that is logged or evaluated; in epochs
    after which an evaluation is not due, nothing is counted.
    """

    metric: str | None = None
    """A metric that the step logs, or `<evaluation>/<metric>` of one with `every`; null: the update's loss."""
    mode: Literal["min", "max"] | None = None
    """Whether less of the metric is better, or more; null: as the metric says, min for losses."""
    factor: float = field(default=0.1, validator=[validators.gt(0), validators.lt(1)])
    """Factor of each fall."""
    patience: int = _count(10)
    """Epochs without progress that are borne."""
    threshold: float = field(default=1e-4, validator=validators.ge(0))
    """Progress that counts."""
    threshold_mode: Literal["rel", "abs"] = "rel"
    """Whether progress is a share of the best loss or a difference; abs where the loss can be negative."""
    cooldown: int = _count(0)
    """Epochs after a fall in which nothing is counted."""
    min_lr: float = field(default=0.0, validator=validators.ge(0))
    """lr never falls below."""
    eps: float = field(default=1e-8, validator=validators.ge(0))
    """Falls smaller than this are left out."""
    interval: Literal["epoch"] = "epoch"
    """What is counted."""
    warmup: int = _count(0)
    """Epochs of a linear rise before it."""

    def directed(self, better: Better) -> ReduceLROnPlateau:
        """With what is better of the metric."""
        lower = self.metric is None or better(self.metric) == "lower"
        return self if self.mode else evolve(self, mode="min" if lower else "max")

    def __call__(self, optimizer: Optimizer) -> _Plateau:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        from fluxflow_torch.plateau import WarmedUpPlateau

        options = asdict(self, filter=lambda attribute, _: attribute.name not in ("metric", "interval", "warmup"))
        options["mode"] = self.mode or "min"
        if self.warmup == 0:
            return ReduceLROnPlateau(optimizer, **options)
        return WarmedUpPlateau(optimizer, self.warmup, **options)
