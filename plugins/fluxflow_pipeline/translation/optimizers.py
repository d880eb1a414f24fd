"""The optimizers and schedulers of a step, with FluxFlow's defaults, which differ with and without a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fluxflow_registry import Problem
from fluxflow_registry.commands import Node, as_node

from ..config.config import Config, Step, default_of, trained_models
from .recipe_text import component

#: The learning rate of a file that sets none, of an optimizer that sets none, and of a discriminator beside other
#: optimizers, none of which is the autoencoder's.
LR, LR_OF_OPTIMIZER, LR_OF_DISCRIMINATOR = 5e-7, 1e-5, 1e-4

#: The optimizers of a file without a pipeline; the text encoder has a tenth of the learning rate.
_FLAT: Mapping[str, Mapping[str, Any]] = {
    "flow": {"type": "Lion", "betas": [0.9, 0.95], "weight_decay": 0.01},
    "vae": {"type": "AdamW", "betas": [0.9, 0.95], "weight_decay": 0.01},
    "text_encoder": {"type": "AdamW", "betas": [0.9, 0.99], "weight_decay": 0.01},
    "discriminator": {"type": "AdamW", "betas": [0.0, 0.9], "weight_decay": 0.001, "amsgrad": True},
}
_DIVISORS = {"text_encoder": 10.0}

#: The optimizer of a step whose pipeline sets none.
_LISTED: Mapping[str, Any] = {"type": "AdamW", "weight_decay": 0.01}

#: For each type, the options that FluxFlow passes to it; it ignores all others.
_OPTIMIZER_OPTIONS = {
    "AdamW": {"betas", "weight_decay", "eps", "amsgrad"},
    "Adam": {"betas", "weight_decay", "eps", "amsgrad"},
    "Lion": {"betas", "weight_decay", "decoupled_weight_decay"},
    "SGD": {"momentum", "weight_decay", "dampening", "nesterov"},
    "RMSprop": {"alpha", "eps", "weight_decay", "momentum", "centered"},
}
_SCHEDULER_OPTIONS = {
    "CosineAnnealingLR": {"eta_min_factor"},
    "LinearLR": {"start_factor", "end_factor", "total_iters"},
    "ExponentialLR": {"gamma"},
    "ConstantLR": {"factor", "total_iters"},
    "StepLR": {"step_size", "gamma"},
    "ReduceLROnPlateau": {"mode", "factor", "patience", "threshold"},
}

#: Options of torch's schedulers that FluxFlow's pages show, and that it ignores in every type.
_NEVER_USED = {"T_max"}

#: FluxFlow's defaults for options whose default is another one here.
_OPTIMIZER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "AdamW": {"weight_decay": 0.0},
    "Lion": {"betas": [0.9, 0.95]},
}
_SCHEDULER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "CosineAnnealingLR": {"eta_min_factor": 0.1, "interval": "batch"},
    "LinearLR": {"start_factor": 1.0, "end_factor": 0.1, "interval": "batch"},
    "ConstantLR": {"factor": 1.0, "interval": "batch"},
    "StepLR": {"interval": "batch"},
    "ExponentialLR": {"gamma": 0.95, "interval": "batch"},
}

#: Where a default cosine ends without `lr_min`, for optimizers of a file without a pipeline.
_FLAT_MINIMA = {"text_encoder": 0.001}


def optimizer(step: Step, name: str) -> Node:
    """The optimizer of an update: its own, or FluxFlow's default; the learning rate is its own, or the step's."""
    own = step.optimizers.get(name)
    if own is None and name == "discriminator" and step.optimizers:
        own = step.optimizers.get("vae")
        if own is None:
            return _default(name, _LISTED, as_node(LR_OF_DISCRIMINATOR, default_of("lr")))
    if own is None:
        rate = step.keys.value("lr") or as_node(LR, default_of("lr"))
        divisor = _DIVISORS.get(name, 1.0) if step.flat else 1.0
        return _default(name, _FLAT[name] if step.flat else _LISTED, as_node(rate.value / divisor, rate.where))
    rate = step.keys.value("lr") or as_node(LR if step.flat else LR_OF_OPTIMIZER, default_of("lr"))
    made = _with_defaults(own, "AdamW", _OPTIMIZER_OPTIONS, _OPTIMIZER_DEFAULTS, {"lr": rate})
    return _decoupled(made, own)


def _default(name: str, options: Mapping[str, Any], rate: Node) -> Node:
    where = default_of(f"the optimizer `{name}`")
    rest = {key: as_node(value, where) for key, value in options.items() if key != "type"}
    return _decoupled(component(str(options["type"]), where, lr=rate, **rest))


def _decoupled(made: Node, own: Node | None = None) -> Node:
    """Lion's weight decay as FluxFlow applies it: independent of the first learning rate, unless the file says not."""
    decoupled = own.get("decoupled_weight_decay") if own is not None else None
    if made.plain()["type"] != "Lion" or (decoupled is not None and decoupled.value is False):
        return made
    decay, rate = made.get("weight_decay"), made.get("lr")
    if decay is None or rate is None or not (_is_positive(decay) and _is_positive(rate)):
        return made  # what is wrong with them is reported when the recipe is checked
    exact = as_node(decay.value / rate.value, decay.where)
    return Node({**made.value, "weight_decay": exact}, made.where, made.keys)


def _is_positive(node: Node) -> bool:
    return isinstance(node.value, (int, float)) and not isinstance(node.value, bool) and node.value > 0


def scheduler(step: Step, name: str) -> Node | None:
    """The scheduler of an update, by default a cosine down to `lr_min`."""
    own = step.schedulers.get(name)
    if own is not None:
        return _with_defaults(own, "CosineAnnealingLR", _SCHEDULER_OPTIONS, _SCHEDULER_DEFAULTS, {})
    factor, where = step.keys.value("lr_min"), step.keys.where("lr_min")
    if step.flat and name in _FLAT_MINIMA and not step.keys.sets("lr_min"):
        factor = as_node(_FLAT_MINIMA[name], where)
    return component("CosineAnnealingLR", where, eta_min_factor=factor, interval="batch")


def idle_options(config: Config) -> Iterator[Problem]:
    """A note for each option that the chosen type does not have, and for schedulers that count something else here."""
    for step in config.steps:
        kinds = (
            ("optimizer", "AdamW", step.optimizers, _OPTIMIZER_OPTIONS),
            ("scheduler", "CosineAnnealingLR", step.schedulers, _SCHEDULER_OPTIONS),
        )
        for kind, default, entries, options in kinds:
            for name, own in entries.items():
                type_ = _type_of(own, default)
                for key in _dropped(own, type_, options):
                    message = f"`{key}` of the {kind} `{name}` has no effect: FluxFlow does not pass it to {type_}"
                    yield Problem(message, own.keys[key], code="unused", subject=key)
                if type_ == "ReduceLROnPlateau" and trained_models(step).get(name):
                    message = f"`patience` of the {kind} `{name}` counts epochs here: FluxFlow counts optimizer steps"
                    yield Problem(message, own.where, code="different-unit", subject="patience")


def _type_of(own: Node, default: str) -> str:
    named = own.get("type")
    return str(named.value) if named is not None and named.value is not None else default


def _dropped(own: Node, type_: str, options: Mapping[str, set[str]]) -> list[str]:
    """The options of a component that FluxFlow knows, but not for its type."""
    if type_ not in options:  # reported when the recipe is checked
        return []
    known = set().union(*options.values()) | _NEVER_USED
    return [key for key in own.value if key in known and key not in options[type_]]


def _with_defaults(
    own: Node,
    default: str,
    options: Mapping[str, set[str]],
    defaults: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Node],
) -> Node:
    """The component with its own options first, then those `shared`, then FluxFlow's defaults for its type."""
    type_ = _type_of(own, default)
    left_out = {"type", "decoupled_weight_decay", *_dropped(own, type_, options)}
    value = {key: child for key, child in own.value.items() if key not in left_out and child.value is not None}
    for key, child in shared.items():
        value.setdefault(key, child)
    for key, fallback in defaults.get(type_, {}).items():
        value.setdefault(key, as_node(fallback, default_of(key)))
    made = as_node({"type": own.get("type") or as_node(type_, default_of("type")), **value}, own.where)
    return Node(made.value, own.where, {**made.keys, **{key: own.keys[key] for key in made.keys if key in own.keys}})
