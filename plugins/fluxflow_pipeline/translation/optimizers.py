"""Optimizers and schedulers of a FluxFlow configuration, which have options of their own."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.commands import Node, as_node

from ..config.config import Step, default_of
from ..config.key_changes import LR
from .nodes import component

#: FluxFlow's options without a counterpart, and the value that has the same effect as none.
_IMPLIED = {"decoupled_weight_decay": True, "mode": "min"}

#: FluxFlow's defaults for options whose default is another one here.
_OPTIMIZER_DEFAULTS = {"AdamW": {"weight_decay": 0.0}}
_SCHEDULER_DEFAULTS: dict[str, dict[str, float | str]] = {
    "CosineAnnealingLR": {"eta_min_factor": 0.1, "interval": "batch"},
    "LinearLR": {"start_factor": 1.0, "end_factor": 0.1, "interval": "batch"},
    "ConstantLR": {"factor": 1.0, "interval": "batch"},
    "ExponentialLR": {"gamma": 0.95},
}


def optimizer(step: Step, name: str) -> Node:
    """The optimizer of an update, AdamW by default; its learning rate is its own, or the step's."""
    own = step.optimizers.get(name)
    rate = step.keys.value("lr") or as_node(LR, step.keys.where("lr"))
    if own is None:
        decay = as_node(0.0, default_of("weight_decay"))
        return component("AdamW", default_of(name), lr=rate, weight_decay=decay)
    return _with_defaults(own, "AdamW", _OPTIMIZER_DEFAULTS, {"lr": rate})


def scheduler(step: Step, name: str) -> Node | None:
    """The scheduler of an update, by default a cosine down to `lr_min`."""
    own = step.schedulers.get(name)
    if own is None:
        factor = step.keys.value("lr_min")
        where = step.keys.where("lr_min")
        return component("CosineAnnealingLR", where, eta_min_factor=factor, interval="batch")
    return _with_defaults(own, "CosineAnnealingLR", _SCHEDULER_DEFAULTS, {})


def _with_defaults(
    own: Node, type_: str, defaults: Mapping[str, Mapping[str, float | str]], options: Mapping[str, Node]
) -> Node:
    """The component with its own options first, then `options`, then FluxFlow's defaults for its type."""
    chosen = own.get("type") or as_node(type_, default_of("type"))
    value = {key: child for key, child in own.value.items() if key != "type" and not _is_implied(key, child)}
    for key, child in options.items():
        value.setdefault(key, child)
    for key, default in defaults.get(str(chosen.value), {}).items():
        value.setdefault(key, as_node(default, default_of(key)))
    made = as_node({"type": chosen, **value}, own.where)
    return Node(made.value, own.where, {**made.keys, **{key: own.keys[key] for key in made.keys if key in own.keys}})


def _is_implied(key: str, child: Node) -> bool:
    """Whether an option has no effect here."""
    return child.value is None or (key in _IMPLIED and child.value == _IMPLIED[key])
