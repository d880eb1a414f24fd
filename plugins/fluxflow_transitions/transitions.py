"""Transitions: when a step ends, by one metric or by a combination of conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from attrs import evolve, field, frozen, validators

from fluxflow_registry import Better, Ending, History, Summary, counted

Mode = Literal["min", "max"]

#: For each criterion of a condition, the options that apply to it.
_OPTIONS = {
    "epochs": (),
    "below": ("metric", "patience"),
    "above": ("metric", "patience"),
    "plateau": ("metric", "min_delta", "relative", "mode"),
}


def epoch(epoch: int, epochs: int) -> Ending | None:
    """Ends after the step's `epochs`, as a step without a transition does."""
    return Ending(counted(epochs, "epoch")) if epoch >= epochs else None


def mode_of(better: Better, metric: str) -> Mode:
    """Whether a lower or a higher metric is better, for recipes that do not set it."""
    return "min" if better(metric) == "lower" else "max"


def threshold_passed(
    metric: str, summaries: Sequence[Summary], threshold: float, below: bool, patience: int
) -> str | None:
    """How the smoothed metric has been beyond the threshold for `patience` epochs, as words; None if it has not."""
    recent, sign = summaries[-patience:], 1 if below else -1
    if len(recent) < patience or not all(sign * each.smoothed < sign * threshold for each in recent):
        return None
    return f"{metric} {recent[-1].smoothed:.4g} {'<' if below else '>'} {threshold:g}"


def plateau_reached(
    metric: str, summaries: Sequence[Summary], patience: int, min_delta: float, relative: bool, mode: Mode | None
) -> str | None:
    """How the metric has not improved for `patience` epochs, as words; None if it has improved.

    Epoch e improves on the best b so far if b - e > min_delta, or > min_delta |b| if `relative`; for mode "max" if
    e - b is. Without a finite mean the best is NaN.
    """
    best, waited = math.nan, 0
    for mean in (summary.mean for summary in summaries):
        gain = (mean - best if mode == "max" else best - mean) if math.isfinite(mean) else -math.inf
        if math.isfinite(mean) and (math.isnan(best) or gain > min_delta * (abs(best) if relative else 1)):
            best, waited = mean, 0
        else:
            waited += 1
    return f"{metric} no better than {best:.4g} for {counted(waited, 'epoch')}" if waited >= patience else None


def limit_reached(epoch: int, limit: int, state: str) -> Ending | None:
    """The ending at the safety limit, which is worth a warning; None before it."""
    return Ending(f"{counted(limit, 'epoch')} {state}", limit=True) if epoch >= limit else None


def _at_least_min(transition: _Limits, _: Any, max_epochs: int) -> None:
    if max_epochs < transition.min_epochs:
        raise ValueError(f"max_epochs is {max_epochs}, less than min_epochs ({transition.min_epochs})")


@frozen(kw_only=True)
class _Limits:
    min_epochs: int = field(default=1, validator=validators.ge(1))
    """Smallest number of epochs of the step."""
    max_epochs: int | None = field(default=None, validator=validators.optional([validators.ge(1), _at_least_min]))
    """Safety limit; null: the step's own `epochs`."""


@frozen
class LossThreshold(_Limits):
    """Ends when a metric, smoothed over its last 20 logged values, is below (or above) a threshold.

    The condition must hold at the end of `patience` consecutive epochs, after at least `min_epochs`; after
    `max_epochs` the step ends in any case, with a warning.
    """

    metric: str
    """A metric that the step logs, such as `vae_loss` or `vae/kl`, or `<evaluation>/<metric>`."""
    threshold: float
    """The value that the metric must pass."""
    mode: Literal["below", "above"] | None = None
    """The side of the threshold on which the step ends; null: below for losses, above if higher is better."""
    patience: int = field(default=1, validator=validators.ge(1))
    """Number of consecutive epochs for which the condition must hold."""

    def metrics(self) -> list[str]:
        """The monitored metric."""
        return [self.metric]

    def directed(self, better: Better) -> LossThreshold:
        """The same options with `mode` set to the direction of the metric."""
        return self if self.mode else evolve(self, mode="below" if better(self.metric) == "lower" else "above")

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the condition has held for long enough, or at the limit."""
        known = history.get(self.metric, ())
        reason = threshold_passed(self.metric, known, self.threshold, self.mode != "above", self.patience)
        if epoch >= self.min_epochs and reason:
            return Ending(f"{reason} after {counted(epoch, 'epoch')}")
        last = f"{known[-1].smoothed:.4g}" if known else "never logged"
        state = f"with {self.metric} {last}, not {self.mode or 'below'} {self.threshold:g}"
        return limit_reached(epoch, self.max_epochs or epochs, state)


@frozen
class SumThreshold(_Limits):
    """Ends when a weighted sum of metrics, each smoothed over its last 20 logged values, is below a threshold.

    s = sum_i weight_i m_i must be below `threshold` at the end of `patience` consecutive epochs, after at least
    `min_epochs`; after `max_epochs` the step ends in any case, with a warning.
    """

    terms: dict[str, float] = field(validator=validators.min_len(1))
    """The metrics that the step logs, each with its weight, such as `{vae/frequency: 1.0, vae/lpips: 0.1}`."""
    threshold: float
    """The value that the sum must fall below."""
    patience: int = field(default=1, validator=validators.ge(1))
    """Number of consecutive epochs for which the condition must hold."""

    def metrics(self) -> list[str]:
        """The monitored metrics."""
        return list(self.terms)

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the condition has held for long enough, or at the limit."""
        name, sums = str(self), self._sums(history)
        recent = sums[-self.patience :]
        if epoch >= self.min_epochs and len(recent) == self.patience and all(each < self.threshold for each in recent):
            return Ending(f"{name} {recent[-1]:.4g} < {self.threshold:g} after {counted(epoch, 'epoch')}")
        last = f"{sums[-1]:.4g}" if sums else "never logged"
        return limit_reached(epoch, self.max_epochs or epochs, f"with {name} {last}, not below {self.threshold:g}")

    def _sums(self, history: History) -> list[float]:
        """The sum at the end of each epoch in which every metric was logged."""
        columns = [history.get(metric, ()) for metric in self.terms]
        rows = zip(*(column[len(column) - min(map(len, columns)) :] for column in columns), strict=True)
        weights = self.terms.values()
        return [sum(w * each.smoothed for w, each in zip(weights, row, strict=True)) for row in rows]

    def __str__(self) -> str:
        """The sum as words."""
        return " + ".join(metric if weight == 1 else f"{weight:g} {metric}" for metric, weight in self.terms.items())


@frozen
class Plateau(_Limits):
    """Ends when the mean of a metric over an epoch has not improved for `patience` epochs.

    An epoch improves on the best b so far if its mean is better by more than min_delta, or by more than
    min_delta |b| if `relative`. After `max_epochs` the step ends in any case, with a warning.
    """

    metric: str
    """A metric that the step logs, such as `vae_loss` or `vae/kl`, or `<evaluation>/<metric>`."""
    patience: int = field(default=5, validator=validators.ge(1))
    """Epochs without an improvement after which the step ends."""
    min_delta: float = field(default=0.0, validator=validators.ge(0))
    """The difference that an improvement must exceed."""
    relative: bool = False
    """Whether min_delta is a share of the best value so far."""
    mode: Literal["min", "max"] | None = None
    """Whether lower (min) or higher (max) is better; null: as the metric defines it, min for losses."""

    def metrics(self) -> list[str]:
        """The monitored metric."""
        return [self.metric]

    def directed(self, better: Better) -> Plateau:
        """The same options with `mode` set to the direction of the metric."""
        return self if self.mode else evolve(self, mode=mode_of(better, self.metric))

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the metric has not improved for long enough, or at the limit."""
        known = history.get(self.metric, ())
        reason = plateau_reached(self.metric, known, self.patience, self.min_delta, self.relative, self.mode)
        if epoch >= self.min_epochs and reason:
            return Ending(reason)
        last = f"{known[-1].mean:.4g}, not on a plateau" if known else "never logged"
        return limit_reached(epoch, self.max_epochs or epochs, f"with {self.metric} {last}")


def _count() -> Any:
    return field(default=None, validator=validators.optional(validators.ge(1)))


@frozen
class Condition:
    """A condition on the end of an epoch: `epochs`, or `below`, `above` or `plateau` of a metric."""

    epochs: int | None = _count()
    """This many epochs are done."""
    metric: str | None = None
    """The metric of the other conditions."""
    below: float | None = None
    """The mean of its last 20 values is below this."""
    above: float | None = None
    """The mean of its last 20 values is above this."""
    patience: int | None = _count()
    """Number of consecutive epochs for which that must hold; null: 1."""
    plateau: int | None = _count()
    """Its mean over an epoch has not improved for this many epochs."""
    min_delta: float | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """The difference that an improvement must exceed; null: 0."""
    relative: bool | None = None
    """Whether min_delta is a share of the best value so far; null: no."""
    mode: Literal["min", "max"] | None = None
    """Whether lower (min) or higher (max) is better; null: as the metric defines it, min for losses."""

    def conflict(self) -> str | None:
        """What is wrong with the combination of options, or None."""
        criteria = [name for name in _OPTIONS if getattr(self, name) is not None]
        if len(criteria) != 1:
            return f"must have exactly one of {', '.join(_OPTIONS)}, but has {' and '.join(criteria) or 'none'}"
        (criterion,) = criteria
        if criterion != "epochs" and self.metric is None:
            return f"has `{criterion}` but no `metric`: name the metric"
        others = {name for names in _OPTIONS.values() for name in names} - set(_OPTIONS[criterion])
        unused = sorted(name for name in others if getattr(self, name) is not None)
        return f"has `{unused[0]}`, which does not apply to `{criterion}`" if unused else None

    def directed(self, better: Better) -> Condition:
        """The same condition with `mode` set to the direction of the metric, if it has a plateau."""
        if self.plateau is None or self.metric is None or self.mode:
            return self
        return evolve(self, mode=mode_of(better, self.metric))

    def met(self, epoch: int, history: History) -> str | None:
        """How the condition is met after this epoch, as words; None if it is not."""
        if self.metric is None:
            return counted(epoch, "epoch") if self.epochs is not None and epoch >= self.epochs else None
        known = history.get(self.metric, ())
        if self.plateau is not None:
            delta, relative = self.min_delta or 0.0, bool(self.relative)
            return plateau_reached(self.metric, known, self.plateau, delta, relative, self.mode)
        threshold = self.below if self.below is not None else self.above
        assert threshold is not None  # see `conflict`
        return threshold_passed(self.metric, known, threshold, self.below is not None, self.patience or 1)

    def __str__(self) -> str:
        """What the condition waits for, as words."""
        if self.metric is None:
            return counted(self.epochs or 0, "epoch")
        if self.plateau is not None:
            return f"a plateau of {self.metric}"
        return f"{self.metric} < {self.below:g}" if self.below is not None else f"{self.metric} > {self.above:g}"


def _consistent(_: Any, __: Any, conditions: Sequence[Condition]) -> None:
    if not conditions:
        raise ValueError("conditions is empty: list at least one condition")
    for number, condition in enumerate(conditions, 1):
        if (conflict := condition.conflict()) is not None:
            raise ValueError(f"condition {number} of {len(conditions)} {conflict}")


@frozen
class _Combination(_Limits):
    conditions: list[Condition] = field(validator=_consistent)
    """Each has `epochs`, or a `metric` with `below` or `above` (patience) or `plateau` (min_delta, relative, mode)."""

    def metrics(self) -> list[str]:
        """The monitored metrics."""
        return list(dict.fromkeys(each.metric for each in self.conditions if each.metric is not None))

    def directed(self, better: Better) -> Self:
        """The same options with the direction of each metric."""
        return evolve(self, conditions=[condition.directed(better) for condition in self.conditions])


@frozen
class AllOf(_Combination):
    """Ends when all conditions are met after the same epoch.

    After `max_epochs` the step ends in any case, with a warning that names the conditions that are not met.
    """

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when all conditions are met, or at the limit."""
        met = [condition.met(epoch, history) for condition in self.conditions]
        if epoch >= self.min_epochs and None not in met:
            return Ending(" and ".join(map(str, met)))
        unmet = [str(each) for each, reason in zip(self.conditions, met, strict=True) if reason is None]
        return limit_reached(epoch, self.max_epochs or epochs, f"without {' and '.join(unmet) or 'min_epochs'}")


@frozen
class AnyOf(_Combination):
    """Ends when one of the conditions is met.

    After `max_epochs` the step ends in any case, with a warning.
    """

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End at the first condition that is met, or at the limit."""
        reasons = [reason for each in self.conditions if (reason := each.met(epoch, history)) is not None]
        if epoch >= self.min_epochs and reasons:
            return Ending(reasons[0])
        return limit_reached(epoch, self.max_epochs or epochs, f"without {' or '.join(map(str, self.conditions))}")
