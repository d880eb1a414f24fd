"""Criteria on the history of one metric, and the limits that all transitions have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, validators

from fluxflow_registry import Better, Ending, Summary, counted

Mode = Literal["min", "max"]


def mode_of(better: Better, metric: str) -> Mode:
    """Whether a metric improves downwards or upwards, for recipes that do not say."""
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


def min_epochs_field() -> Any:
    """The option `min_epochs`."""
    return field(default=1, validator=validators.ge(1))


def max_epochs_field() -> Any:
    """The option `max_epochs`, which is at least `min_epochs`."""
    return field(default=None, validator=[validators.optional(validators.ge(1)), _at_least_min_epochs])


def _at_least_min_epochs(transition: Any, _: Any, max_epochs: int | None) -> None:
    if max_epochs is not None and max_epochs < transition.min_epochs:
        raise ValueError(f"max_epochs is {max_epochs}, less than min_epochs ({transition.min_epochs})")
