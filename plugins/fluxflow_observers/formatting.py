"""Figures, durations and places of a run in a reader's words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .metric_names import shown

if TYPE_CHECKING:
    from fluxflow_registry import Position
    from fluxflow_registry.lifecycle import StepView

#: Metrics that are shares of pictures which are right, by their names (or by an ending in `accuracy`).
SHARES = frozenset({"everything", "colour", "background", "place", "shape", "size", "match"})


def figure(name: str, value: float) -> str:
    """A metric with its unit: shares as percent, signal-to-noise ratios in dB, else four digits."""
    short = name.rsplit("/", 1)[-1]
    if not math.isfinite(value):
        return str(value)
    if short == "psnr":
        return f"{value:.2f} dB"
    if is_share(short):
        return f"{100 * value:.1f}%"
    return f"{value:.4g}"


def is_share(metric: str) -> bool:
    """Whether a metric is a share, from 0 to 1."""
    return metric in SHARES or metric.endswith("accuracy")


def figures(metrics: Mapping[str, float], names: Mapping[str, str]) -> list[str]:
    """`name: figure` of each metric that tells how training goes; `names` adds to the short names."""
    return [f"{name}: {figure(name, value)}" for name, value in shown(metrics, names).items()]


def duration(seconds: float) -> str:
    """A time span as H:MM:SS."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def pace(seconds: float) -> str:
    """Seconds for one batch, such as `0.032s/batch`."""
    if seconds < 0.001:
        return f"{seconds:.2g}s/batch"
    return f"{seconds:.3f}s/batch" if seconds < 1 else f"{seconds:.1f}s/batch"


def count(number: int, noun: str) -> str:
    """`1 batch`, `500 batches`: a number with its noun."""
    plural = noun + ("es" if noun.endswith("tch") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def placed(step: StepView, position: Position) -> tuple[int, int]:
    """The epoch, from 1, and the batch in it; the start of an epoch is the end of the one before."""
    if position.batch == 0 and position.epoch > 0:
        return position.epoch, step.batches
    return position.epoch + 1, position.batch


def planned(step: StepView, epoch: int) -> int:
    """Epochs of the step; a transition may go on beyond what the recipe plans."""
    return max(step.epochs, epoch)


def heading(step: StepView, steps: int) -> str:
    """`Step vae_gan (2/4)`."""
    return f"Step {step.name} ({step.index + 1}/{steps})"


def whereabouts(step: StepView, steps: int, position: Position) -> str:
    """Where a run stands, such as `step vae_gan (2/4), epoch 5/20, after batch 127/500`."""
    head = f"step {step.name} ({step.index + 1}/{steps})"
    epoch, batch = placed(step, position)
    if batch == 0:
        return f"{head}, at its start"
    return f"{head}, epoch {epoch}/{planned(step, epoch)}, after batch {batch}/{step.batches}"


def finite(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null, at any depth."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
