"""Metrics, durations and positions of a run as text, with short names: `VAE` for `vae_loss`, `KL` for `vae/kl`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from math import isclose
from typing import TYPE_CHECKING

from attrs import validators

if TYPE_CHECKING:
    from fluxflow_registry import Position, StepView

#: A name in a recipe: a string that is not empty.
NAME = validators.and_(validators.instance_of(str), validators.min_len(1))

#: The total of an update of that name.
TOTALS: Mapping[str, str] = {"vae_loss": "VAE", "discriminator_loss": "D", "flow_loss": "Flow"}

#: A loss of that label, whatever the update.
LOSSES: Mapping[str, str] = {"kl": "KL", "lpips": "LPIPS"}

#: The generator's side of any adversarial loss, as in `hinge_generator`.
GENERATOR, GENERATOR_NAME = "_generator", "G"

#: A line starts with the metrics that have these names, in this order.
ORDER = ("VAE", "KL", "G", "D", "LPIPS", "Flow")

#: Metrics that control training rather than measure it: in the logs, not on the console.
CONTROLS = ("lr", "grad_norm", "weight")

#: Metrics that are a share of correct images, by their names (or by an ending in `accuracy`).
SHARES = frozenset({"everything", "colour", "background", "place", "shape", "size", "match"})


def short_name(metric: str) -> str | None:
    """The short name of one metric; None if it keeps its own."""
    if metric in TOTALS:
        return TOTALS[metric]
    update, _, label = metric.partition("/")
    if not label:
        return None
    if label in LOSSES:
        return LOSSES[label]
    return GENERATOR_NAME if label.endswith(GENERATOR) and update else None


def short_names(metrics: Iterable[str], configured: Mapping[str, str]) -> dict[str, str]:
    """For each metric the name to display: the configured one, else the short one, else its own.

    Metrics that would share a name keep their own, except that a configured name takes precedence over a short one.
    """
    known = list(metrics)
    chosen = [configured[name] for name in known if name in configured]
    short = {name: wish for name in known if name not in configured and (wish := short_name(name))}
    own = [
        name for name in known if name not in short and (name not in configured or chosen.count(configured[name]) > 1)
    ]
    taken = [*chosen, *short.values(), *own]
    wishes = {**short, **{name: configured[name] for name in known if name in configured}}

    def is_free(name: str, wish: str) -> bool:
        return (chosen if name in configured else taken).count(wish) == 1

    return {name: wish if (wish := wishes.get(name)) and is_free(name, wish) else name for name in known}


def is_control(metric: str) -> bool:
    """Whether a metric controls training: a learning rate, a gradient norm, a weight."""
    return metric.rpartition("/")[2] in CONTROLS and "/" in metric


def displayed(metrics: Mapping[str, float], configured: Mapping[str, str]) -> dict[str, float]:
    """The metrics that measure training, by the names to display, in the order of a line.

    The only loss of an update is left out if it equals the update's total.
    """
    measured = {name: value for name, value in metrics.items() if not is_control(name)}
    names = short_names(measured, configured)
    found = {names[name]: value for name, value in measured.items() if not _repeats_total(name, measured)}
    first = {name: found.pop(name) for name in ORDER if name in found}
    return {**first, **found}


def _repeats_total(metric: str, metrics: Mapping[str, float]) -> bool:
    update, _, label = metric.partition("/")
    total = metrics.get(f"{update}_loss")
    if not label or total is None or sum(name.startswith(f"{update}/") for name in metrics) > 1:
        return False
    return isclose(total, metrics[metric], rel_tol=1e-6) or total != total


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
