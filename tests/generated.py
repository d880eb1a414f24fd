"""Recipes drawn from the registry's own schemas: any component, any options that it takes, any steps that train."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

from attrs import NOTHING, Attribute
from hypothesis import strategies as st

from fluxflow_registry.contracts import CONTEXT
from fluxflow_registry.errors import Place
from fluxflow_registry.recipe.convert import limits_of, structure
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import StepSettings
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

Draw = Any
FIELDS = {"image", "caption"}


def of_type(kind: Any, limits: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a type, as YAML has them, within the bounds that a validator states."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        least = int(limits.get(">=", limits.get(">", -1000) + 1))
        return st.integers(least, max(least, int(limits.get("<=", limits.get("<", least + 65) - 1))))
    if kind is float:
        low, high = limits.get(">=", limits.get(">", -1e3)), limits.get("<=", limits.get("<", 1e6))
        return st.floats(low, high, exclude_min=">" in limits, exclude_max="<" in limits, allow_subnormal=False)
    if kind is str:
        return st.text(max_size=8)
    if kind is type(None):
        return st.none()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([of_type(argument, limits) for argument in arguments])
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*(of_type(argument, {}) for argument in arguments)).map(list)
    if origin in (list, tuple, Sequence, set):
        return st.lists(of_type(arguments[0], {}), max_size=3)
    if origin in (dict, Mapping):
        return st.dictionaries(of_type(arguments[0], {}), of_type(arguments[1], {}), max_size=3)
    raise AssertionError(f"no strategy for {kind}")


def placed(value: Any) -> Node:
    if isinstance(value, list):
        return Node([placed(item) for item in value], "", {})
    if isinstance(value, dict):
        return Node({key: placed(item) for key, item in value.items()}, "", dict.fromkeys(value, Place("")))
    return Node(value, "", {})


def builds(cls: type, options: Mapping[str, Any]) -> bool:
    return not structure(cls, placed(dict(options)), "it")[1]


def option(attribute: Attribute[Any]) -> st.SearchStrategy[Any]:
    return of_type(attribute.type, dict(limits_of(attribute.validator)))


@st.composite
def options(draw: Draw, cls: Any) -> dict[str, Any]:
    """Some options of a component: those that it needs, and of the others as many as it takes together."""
    if not is_configurable(cls):
        return {}
    chosen: dict[str, Any] = {}
    for attribute in fields_of(cls):
        if attribute.default is NOTHING:
            alone = option(attribute).map(partial(_with, chosen, key_of(attribute)))
            chosen = draw(alone.filter(partial(_fits, cls)))
    for attribute in draw(st.permutations([a for a in fields_of(cls) if a.default is not NOTHING])):
        if draw(st.booleans()):
            wider = _with(chosen, key_of(attribute), draw(option(attribute)))
            chosen = wider if _fits(cls, wider) else chosen
    return chosen


def _with(options: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**options, key: value}


def _fits(cls: type, options: Mapping[str, Any]) -> bool:
    """Whether the options stated so far are right, whatever is still missing."""
    needed = {key_of(attribute) for attribute in fields_of(cls) if attribute.default is NOTHING}
    return builds(cls, options) or not needed <= set(options)


def upstream(registry: Registry, component: Component, cuts: frozenset[str] = frozenset()) -> tuple[set[str], set[str]]:
    """Models and values on which a component depends, not looking behind cuts."""
    models: set[str] = set()
    values: set[str] = set()
    waiting = list(component.signature.needs)
    while waiting:
        name = waiting.pop()
        if name in CONTEXT or name in FIELDS or name in values or name in cuts:
            continue
        provider = registry.get("value", name)
        if provider is None:
            models.add(name)
        else:
            values.add(name)
            waiting += provider.signature.needs
    return models, values


@st.composite
def losses(draw: Draw, registry: Registry) -> tuple[dict[str, Any], list[str]]:
    """Losses of an update, and models to train that every one of them reaches and that reach every one."""
    found: dict[str, Any] = {}
    trains: set[str] = set()
    for name in draw(st.lists(st.sampled_from(registry.names("loss")), min_size=1, max_size=4, unique=True)):
        component = registry.components["loss"][name]
        models, values = upstream(registry, component)
        cuts = draw(st.lists(st.sampled_from(sorted(values) or ["none"]), max_size=2, unique=True)) if values else []
        left, _ = upstream(registry, component, frozenset(cuts))
        cuts, left = (cuts, left) if left else ([], models)
        trains.add(draw(st.sampled_from(sorted(left))))
        settings = {
            "weight": draw(st.none() | st.floats(-10, 10, allow_subnormal=False)),
            "warmup": draw(st.integers(0, 9)),
            "every": draw(st.integers(1, 9)),
            "start": draw(begins()),
            "detach": cuts,
        }
        kept = {key: value for key, value in settings.items() if draw(st.booleans())} | {"detach": cuts}
        label = draw(st.sampled_from([name, f"my_{name}"]))
        found[label] = {"type": name, **kept, **draw(options(component.factory))}
    return found, draw(st.permutations(sorted(trains)))


def begins() -> st.SearchStrategy[Any]:
    """When a loss or an update starts: at a batch, or by a condition that watches nothing which it logs itself."""
    conditions = st.lists(st.fixed_dictionaries({"epochs": st.integers(1, 9)}), min_size=1, max_size=2)
    return st.one_of(
        st.integers(0, 9),
        st.sampled_from(["epoch", {"type": "epoch"}]),
        st.fixed_dictionaries({"type": st.sampled_from(["all", "any"]), "conditions": conditions}),
    )


def _entry(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": name, **options}


def component(registry: Registry, kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """An entry with `type` of any component of a kind."""
    made = []
    for name in registry.names(kind):
        factory = registry.components[kind][name].factory
        made.append(options(factory).map(partial(_entry, name)))
    return st.one_of(made)


@st.composite
def updates(draw: Draw, registry: Registry) -> dict[str, Any]:
    found, trains = draw(losses(registry))
    update = {"trains": trains, "losses": found, "optimizer": draw(component(registry, "optimizer"))}
    for key in ("scheduler", "balancer"):
        if draw(st.booleans()):
            update[key] = draw(component(registry, key))
    for key in ("spare", "balanced", "against"):  # losses that the update has
        if update.get("balancer", {}).get(key):
            update["balancer"][key] = [next(iter(found))]
    if draw(st.booleans()):
        update["clip_grad_norm"] = draw(st.floats(0.1, 10))
    if draw(st.booleans()):
        update["start"] = draw(begins())
    return update


@st.composite
def steps(
    draw: Draw, registry: Registry, datasets: Sequence[str], before: Sequence[str], shared: Mapping[str, Any]
) -> dict[str, Any]:
    turns = draw(st.dictionaries(st.sampled_from(["vae", "gan", "flow"]), updates(registry), min_size=1, max_size=3))
    step: dict[str, Any] = {"updates": turns, "dataset": draw(st.sampled_from(datasets))}
    for name, turn in turns.items():
        if turn.get("scheduler", {}).get("metric") is not None:  # one that is logged
            turn["scheduler"]["metric"] = f"{name}_loss"
    for attribute in fields_of(StepSettings):
        key = key_of(attribute)
        if key not in ("dataset", "after", "ema", "best") and draw(st.booleans()):
            step[key] = draw(option(attribute))
    if draw(st.booleans()):
        step["after"] = draw(st.sampled_from([None, *before]))
    if draw(st.booleans()):
        trained = sorted({model for turn in turns.values() for model in turn["trains"]})
        step["ema"] = {
            "models": draw(st.lists(st.sampled_from(trained), unique=True)),
            "decay": draw(st.floats(0, 0.9)),
        }
    if draw(st.booleans()):
        modes = draw(st.sampled_from([{}, {"mode": "min"}, {"mode": "max"}]))
        step["best"] = {"metric": f"{next(iter(turns))}_loss", **modes}
    if draw(st.booleans()):
        step["until"] = draw(until(f"{next(iter(turns))}_loss"))
    if draw(st.booleans()):
        metrics = draw(st.lists(st.sampled_from(registry.names("metric")), min_size=1, unique=True))
        chosen = {name: draw(options(registry.components["metric"][name].factory)) for name in metrics}
        step["evaluate"] = {"seen": {"dataset": draw(st.sampled_from(datasets)), "metrics": chosen}}
    if draw(st.booleans()):
        # A step's options are laid on the recipe's, and have to be right together.
        step["values"] = {
            name: own for name, own in draw(values(registry)).items() if _together(registry, name, shared, own)
        }
    return step


def _together(registry: Registry, name: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    factory = registry.components["value"][name].factory
    return not is_configurable(factory) or builds(factory, {**shared.get(name, {}), **own})


def until(metric: str) -> st.SearchStrategy[dict[str, Any]]:
    """Transitions that watch a metric which is logged."""
    threshold, count = st.floats(-1, 1), st.integers(1, 9)
    watched = st.just(metric)
    condition = st.one_of(
        st.fixed_dictionaries({"epochs": count}),
        st.fixed_dictionaries({"metric": watched, "below": threshold}, optional={"patience": count}),
        st.fixed_dictionaries({"metric": watched, "above": threshold}, optional={"patience": count}),
        st.fixed_dictionaries({"metric": watched, "plateau": count}, optional={"relative": st.booleans()}),
    )
    return st.one_of(
        st.just({"type": "epoch"}),
        st.fixed_dictionaries({"type": st.just("loss_threshold"), "metric": watched, "threshold": threshold}),
        st.fixed_dictionaries({"type": st.just("plateau"), "metric": watched}, optional={"max_epochs": count}),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["all", "any"]), "conditions": st.lists(condition, min_size=1, max_size=3)}
        ),
    )


@st.composite
def values(draw: Draw, registry: Registry) -> dict[str, Any]:
    """Options for some values."""
    names = draw(st.lists(st.sampled_from(registry.names("value")), max_size=2, unique=True))
    return {name: draw(options(registry.components["value"][name].factory)) for name in names}


@st.composite
def observers(draw: Draw, registry: Registry) -> dict[str, Any]:
    """Observers that ask for no values; those that join by themselves may be sent away."""
    found: dict[str, Any] = {}
    for name, each in registry.components["observer"].items():
        if not hasattr(each.factory, "draws") and draw(st.booleans()):
            away = getattr(each.factory, "default", False) and draw(st.booleans())
            found[name] = False if away else draw(options(each.factory))
    return found


@st.composite
def recipes(draw: Draw, registry: Registry) -> dict[str, Any]:
    """A recipe that validates and plans; every model name has some builder, as shapes are another matter."""
    wanted = {
        model
        for kind in ("loss", "metric")
        for name in registry.names(kind)
        for model in upstream(registry, registry.components[kind][name])[0]
    }
    datasets = {
        name: draw(component(registry, "dataset"))
        for name in draw(st.lists(st.sampled_from(["pictures", "more"]), min_size=1, unique=True))
    }
    for entry in datasets.values():  # held-out samples are measured on only where nothing trains on them
        if entry.get("split") == "held_out":
            del entry["split"]
    recipe = {
        "recipe": 1,
        "name": draw(st.from_regex(r"[A-Za-z0-9_]{1,12}", fullmatch=True)),
        "seed": draw(st.integers(0, 2**63)),
        "models": {name: draw(component(registry, "model")) for name in sorted(wanted)},
        "datasets": datasets,
        "sampler": draw(component(registry, "sampler")),
        "steps": {},
    }
    if draw(st.booleans()):
        recipe["values"] = draw(values(registry))
    if draw(st.booleans()):
        recipe["observers"] = draw(observers(registry))
    for name in draw(st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, unique=True)):
        recipe["steps"][name] = draw(steps(registry, sorted(datasets), list(recipe["steps"]), recipe.get("values", {})))
    logged = f"{next(iter(recipe['steps'][name]['updates']))}_loss"
    for chosen in recipe.get("observers", {}).values():
        for key in {"names", "high"} & set(chosen or ()):  # metrics that are logged
            chosen[key] = dict.fromkeys([logged] if chosen[key] else [], *list(chosen[key].values())[:1])
    return recipe
