"""Options of torch's schedulers; `total` is the number of intervals of the step.

`interval` says what a scheduler counts, epochs (torch's own meaning) or batches. All but
ReduceLROnPlateau and OneCycleLR, which has a rise of its own, take `warmup`: so many intervals in which the
rate rises linearly from a hundredth before the schedule proper begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.optim.lr_scheduler import ReduceLROnPlateau as _Plateau

Interval = Literal["batch", "epoch"]


def _count(default: int) -> Any:
    return field(default=default, validator=validators.ge(0))


def _factor(default: float) -> Any:
    return field(default=default, validator=[validators.gt(0), validators.le(1)])


def _optional_count() -> Any:
    return field(default=None, validator=validators.optional(validators.ge(1)))


def warmed_up(optimizer: Optimizer, warmup: int, make: Any) -> LRScheduler:
    """`make()` behind a linear rise from a hundredth of the rate over `warmup` intervals."""
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    if warmup == 0:
        found: LRScheduler = make()
        return found
    rise = LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
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
        from torch.optim.lr_scheduler import CosineAnnealingLR

        eta_min = self.eta_min_factor * optimizer.param_groups[0]["lr"]
        t_max = self.T_max or max(total - self.warmup, 1)
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
    end_factor: float = _factor(1.0)
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
    """torch's OneCycleLR: lr rises to the optimizer's lr and falls far below its start (Smith, 2018).

    Only the rate moves; momentum and betas stay as the optimizer has them.
    """

    pct_start: float = field(default=0.3, validator=[validators.gt(0), validators.lt(1)])
    """Share of the step in which lr rises."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Form of the rise and the fall."""
    div_factor: float = field(default=25.0, validator=validators.ge(1))
    """The first rate is lr / div_factor."""
    final_div_factor: float = field(default=1e4, validator=validators.ge(1))
    """The last rate is the first / final_div_factor."""
    interval: Interval = "batch"
    """What is counted."""

    def __call__(self, optimizer: Optimizer, total: int) -> LRScheduler:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import OneCycleLR

        lr = optimizer.param_groups[0]["lr"]
        return OneCycleLR(
            optimizer,
            max_lr=lr,
            total_steps=total + 1,
            pct_start=self.pct_start,
            anneal_strategy=self.anneal_strategy,
            cycle_momentum=False,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )


@frozen
class ReduceLROnPlateau:
    """torch's ReduceLROnPlateau: lr falls when the update's mean loss of an epoch stops falling."""

    factor: float = field(default=0.1, validator=[validators.gt(0), validators.lt(1)])
    """Factor of each fall."""
    patience: int = _count(10)
    """Epochs without progress that are borne."""
    threshold: float = field(default=1e-4, validator=validators.ge(0))
    """Progress that counts."""
    threshold_mode: Literal["rel", "abs"] = "rel"
    """Whether progress is measured as a share or as a difference."""
    cooldown: int = _count(0)
    """Epochs after a fall in which nothing is counted."""
    min_lr: float = field(default=0.0, validator=validators.ge(0))
    """lr never falls below."""
    eps: float = field(default=1e-8, validator=validators.ge(0))
    """Falls smaller than this are left out."""
    interval: Literal["epoch"] = "epoch"
    """What is counted."""

    def __call__(self, optimizer: Optimizer) -> _Plateau:
        """Build the scheduler."""
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        return ReduceLROnPlateau(
            optimizer,
            factor=self.factor,
            patience=self.patience,
            threshold=self.threshold,
            threshold_mode=self.threshold_mode,
            cooldown=self.cooldown,
            min_lr=self.min_lr,
            eps=self.eps,
        )
