"""What a transition finds in the history of one metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, validators

from fluxflow_registry import Better, Ending, Summary, counted


def mode_of(better: Better, metric: str) -> Literal["min", "max"]:
    """What is better of a metric, where a recipe leaves it open."""
    return "min" if better(metric) == "lower" else "max"


def passed(summaries: Sequence[Summary], threshold: float, below: bool, patience: int) -> bool:
    """Whether the smoothed metric lay beyond the threshold at the end of each of the last `patience` epochs."""
    recent = summaries[-patience:]
    sign = 1 if below else -1
    return len(recent) == patience and all(sign * each.smoothed < sign * threshold for each in recent)


def progress(summaries: Sequence[Summary], min_delta: float, relative: bool, least: bool) -> tuple[float, int]:
    """The best mean of an epoch, and how many epochs have gone by since without a gain on it.

    Epoch e is a gain on the best b where b - e > min_delta, or > min_delta |b| where that is
    `relative`; with `least` false, where e - b is. Without a finite mean the best is NaN.
    """
    best, waited = math.nan, 0
    for mean in (summary.mean for summary in summaries):
        gain = (best - mean if least else mean - best) if math.isfinite(mean) else -math.inf
        if math.isfinite(mean) and (math.isnan(best) or gain > min_delta * (abs(best) if relative else 1)):
            best, waited = mean, 0
        else:
            waited += 1
    return best, waited


def limited(epoch: int, limit: int, told: str) -> Ending | None:
    """The ending by the safety limit, which is worth a warning, or None before it."""
    return Ending(f"{counted(limit, 'epoch')} {told}", limit=True) if epoch >= limit else None


def least_epochs() -> Any:
    """The option `min_epochs`."""
    return field(default=1, validator=validators.ge(1))


def most_epochs() -> Any:
    """The option `max_epochs`, which is not less than `min_epochs`."""
    return field(default=None, validator=[validators.optional(validators.ge(1)), _in_order])


def _in_order(transition: Any, _: Any, most: int | None) -> None:
    if most is not None and most < transition.min_epochs:
        raise ValueError(f"max_epochs is {most}, less than min_epochs, which is {transition.min_epochs}")
