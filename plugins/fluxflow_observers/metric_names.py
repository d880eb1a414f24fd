"""Short names of metrics for the eye: `VAE` for `vae_loss`, `KL` for `vae/kl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isclose

from attrs import validators

#: A name that a recipe gives: a text that is not empty.
NAME = validators.and_(validators.instance_of(str), validators.min_len(1))

#: The total of an update of that name, in the order in which a line shows them.
TOTALS: Mapping[str, str] = {"vae_loss": "VAE", "discriminator_loss": "D", "flow_loss": "Flow"}

#: A loss of that label, whatever the update.
LOSSES: Mapping[str, str] = {"kl": "KL", "lpips": "LPIPS"}

#: The generator's side of any adversarial loss, as in `hinge_generator`.
GENERATOR, GENERATOR_NAME = "_generator", "G"

#: A line shows what is found under these names first, in this order.
ORDER = ("VAE", "KL", "G", "D", "LPIPS", "Flow")

#: Figures that steer training rather than tell how it goes: in the logs, not on the console.
STEERING = ("lr", "grad_norm", "weight")


def short_name(metric: str) -> str | None:
    """The short name of one metric; None where it keeps its own."""
    if metric in TOTALS:
        return TOTALS[metric]
    update, _, label = metric.partition("/")
    if not label:
        return None
    if label in LOSSES:
        return LOSSES[label]
    return GENERATOR_NAME if label.endswith(GENERATOR) and update else None


def short_names(metrics: Iterable[str], stated: Mapping[str, str]) -> dict[str, str]:
    """For each metric the name that it is shown by: the stated one, else the short one, else its own.

    A short name that two metrics would share is given to neither, and one that is stated for another
    metric is not given either: they keep their own.
    """
    known = list(metrics)
    said = [stated[name] for name in known if name in stated]
    short = {name: wish for name in known if name not in stated and (wish := short_name(name))}
    own = [name for name in known if name not in short and (name not in stated or said.count(stated[name]) > 1)]
    taken = [*said, *short.values(), *own]
    wished = {**short, **{name: stated[name] for name in known if name in stated}}

    def is_free(name: str, wish: str) -> bool:
        return (said if name in stated else taken).count(wish) == 1

    return {name: wish if (wish := wished.get(name)) and is_free(name, wish) else name for name in known}


def is_steering(metric: str) -> bool:
    """Whether a metric steers training: a learning rate, a gradient norm, a weight."""
    return metric.rpartition("/")[2] in STEERING and "/" in metric


def shown(metrics: Mapping[str, float], stated: Mapping[str, str]) -> dict[str, float]:
    """The metrics that tell how training goes, by the names that they are shown by, in the order of a line.

    An update's only loss is left out where it is the update's total again.
    """
    telling = {name: value for name, value in metrics.items() if not is_steering(name)}
    names = short_names(telling, stated)
    found = {names[name]: value for name, value in telling.items() if not _repeats(name, telling)}
    first = {name: found.pop(name) for name in ORDER if name in found}
    return {**first, **found}


def _repeats(metric: str, metrics: Mapping[str, float]) -> bool:
    update, _, label = metric.partition("/")
    total = metrics.get(f"{update}_loss")
    if not label or total is None or sum(name.startswith(f"{update}/") for name in metrics) > 1:
        return False
    return isclose(total, metrics[metric], rel_tol=1e-6) or total != total
