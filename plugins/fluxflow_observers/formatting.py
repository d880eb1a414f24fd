"""Metrics, durations and positions of a run as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .metric_names import displayed

if TYPE_CHECKING:
    from fluxflow_registry import Position, StepView

#: Metrics that are a share of correct images, by their names (or by an ending in `accuracy`).
SHARES = frozenset({"everything", "colour", "background", "place", "shape", "size", "match"})


def metric_value(name: str, value: float) -> str:
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


def metric_values(metrics: Mapping[str, float], names: Mapping[str, str]) -> list[str]:
    """`name: value` for each metric that shows how training proceeds; `names` adds to the short names."""
    return [f"{name}: {metric_value(name, value)}" for name, value in displayed(metrics, names).items()]


def duration(seconds: float) -> str:
    """A time span as H:MM:SS."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def batch_time(seconds: float) -> str:
    """Seconds for one batch, such as `0.032s/batch`."""
    if seconds < 0.001:
        return f"{seconds:.2g}s/batch"
    return f"{seconds:.3f}s/batch" if seconds < 1 else f"{seconds:.1f}s/batch"


def epoch_and_batch(step: StepView, position: Position) -> tuple[int, int]:
    """The epoch, from 1, and the batch in it; the start of an epoch counts as the end of the one before."""
    if position.batch == 0 and position.epoch > 0:
        return position.epoch, step.batches
    return position.epoch + 1, position.batch


def epochs_of(step: StepView, epoch: int) -> int:
    """Epochs of the step; a transition may extend it beyond what the recipe plans."""
    return max(step.epochs, epoch)


def heading(step: StepView, steps: int) -> str:
    """`Step vae_gan (2/4)`."""
    return f"Step {step.name} ({step.index + 1}/{steps})"


def whereabouts(step: StepView, steps: int, position: Position) -> str:
    """A position in a run, such as `step vae_gan (2/4), epoch 5/20, after batch 127/500`."""
    head = f"step {step.name} ({step.index + 1}/{steps})"
    epoch, batch = epoch_and_batch(step, position)
    if batch == 0:
        return f"{head}, before its first batch"
    return f"{head}, epoch {epoch}/{epochs_of(step, epoch)}, after batch {batch}/{step.batches}"
