"""Short names of metrics for display: `VAE` for `vae_loss`, `KL` for `vae/kl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isclose

from attrs import validators

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
