"""Optimizers and schedulers of a FluxFlow configuration, which name their own options."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.recipe.node import Node

from .config import Step
from .draft import Piece, component, mapping, said
from .options import LR

#: FluxFlow's options that have no counterpart here, and the value that is meant here.
_GIVEN = {"decoupled_weight_decay": True, "mode": "min"}

#: What FluxFlow's optimizers and schedulers take where the file says nothing, and torch's something else.
_OPTIMIZER_DEFAULTS = {"AdamW": {"weight_decay": 0.0}}
_SCHEDULER_DEFAULTS: dict[str, dict[str, float | str]] = {
    "CosineAnnealingLR": {"eta_min_factor": 0.1, "interval": "batch"},
    "LinearLR": {"start_factor": 1.0, "end_factor": 0.1, "interval": "batch"},
    "ConstantLR": {"factor": 1.0, "interval": "batch"},
    "ExponentialLR": {"gamma": 0.95},
}


def optimizer(step: Step, name: str) -> Piece:
    """The optimizer of an update: as stated, or AdamW; its rate as stated, or the step's."""
    stated = step.optimizers.get(name)
    rate = said(step.settings.lr if step.settings.lr is not None else LR, step.keys.where("lr"))
    if stated is None:
        return component(
            "AdamW",
            f"FluxFlow's default of {name}",
            lr=rate,
            weight_decay=said(0.0, "FluxFlow's default of weight_decay"),
        )
    type_ = _type(stated, "AdamW")
    options = {key: child for key, child in stated.value.items() if key != "type" and not _is_given(key, child)}
    options.setdefault("lr", rate)
    return _filled(stated, type_, options, _OPTIMIZER_DEFAULTS.get(str(type_.value), {}))


def scheduler(step: Step, name: str) -> Piece | None:
    """The scheduler of an update: as stated, or a cosine down to `lr_min`."""
    stated = step.schedulers.get(name)
    if stated is None:
        share = step.keys.where("lr_min")
        return component(
            "CosineAnnealingLR",
            share,
            eta_min_factor=said(step.settings.lr_min, share),
            interval=said("batch", share),
        )
    type_ = _type(stated, "CosineAnnealingLR")
    options = {key: child for key, child in stated.value.items() if key != "type" and not _is_given(key, child)}
    return _filled(stated, type_, options, _SCHEDULER_DEFAULTS.get(str(type_.value), {}))


def _type(stated: Node, default: str) -> Node:
    return stated.get("type") or said(default, "FluxFlow's default of type")


def _filled(stated: Node, type_: Node, options: dict[str, Node], defaults: Mapping[str, float | str]) -> Piece:
    """The component with its options where the file states them, and FluxFlow's defaults where it does not."""
    for key, value in defaults.items():
        options.setdefault(key, said(value, f"FluxFlow's default of {key}"))
    made = mapping(stated.where, {"type": type_, **options})
    keys = {**made.keys, **{key: place for key, place in stated.keys.items() if key in made.keys}}
    return Piece(made.value, stated.where, keys)


def _is_given(key: str, child: Node) -> bool:
    """Whether an option says what holds here anyway."""
    return child.value is None or (key in _GIVEN and child.value == _GIVEN[key])
