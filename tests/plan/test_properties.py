"""For any graph of values and any updates, the plan is what running it by hand would show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.errors import Place
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import LossPlan, UpdatePlan, plan_updates
from fluxflow_registry.plan.values import World
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import StepEntry, StepSettings, UpdateEntry, UpdateSettings

from .made_up import made_up

MODELS = ("m0", "m1", "m2")
FIELDS = ("f0", "f1")


@frozen
class Case:
    """A graph of values, and updates with losses that ask for some of them."""

    needs: Mapping[str, tuple[str, ...]]
    updates: tuple[tuple[str, ...], ...]
    losses: tuple[tuple[tuple[str, ...], ...], ...]
    cuts: tuple[tuple[tuple[str, ...], ...], ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sources = [*FIELDS, *MODELS, "generator"]
    needs: dict[str, tuple[str, ...]] = {}
    for index in range(draw(st.integers(1, 8))):
        chosen = st.lists(st.sampled_from([*sources, *needs]), max_size=3, unique=True)
        needs[f"v{index}"] = tuple(draw(chosen))
    updates, losses, cuts = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        updates.append(tuple(draw(st.lists(st.sampled_from(MODELS), min_size=1, unique=True))))
        asked = st.lists(st.sampled_from([*needs, *FIELDS, *MODELS]), min_size=1, max_size=3, unique=True).map(tuple)
        losses.append(tuple(draw(st.lists(asked, min_size=1, max_size=3))))
        cut = st.lists(st.sampled_from(list(needs)), max_size=2, unique=True).map(tuple)
        cuts.append(tuple(draw(cut) for _ in losses[-1]))
    return Case(needs, tuple(updates), tuple(losses), tuple(cuts))


def plan(case: Case) -> StepPlan:
    providers = {name: made_up(name, needs, set(MODELS)) for name, needs in case.needs.items()}
    # In any order: what is registered first need not be computed first.
    shuffled = dict(sorted(providers.items(), key=lambda item: item[0], reverse=True))
    world = World(frozenset(FIELDS), frozenset(MODELS), frozenset({"generator"}), shuffled)
    updates = []
    for index, (trains, losses, cuts) in enumerate(zip(case.updates, case.losses, case.cuts, strict=True)):
        planned = {
            f"l{number}": LossPlan(made_up(f"l{number}", needs, set(MODELS)), detached=frozenset(cut))
            for number, (needs, cut) in enumerate(zip(losses, cuts, strict=True))
        }
        entry = UpdateEntry(f"u{index}", UpdateSettings(list(trains)), {}, None, None, None, {}, Node({}, "r.yaml", {}))
        updates.append(UpdatePlan(entry, made_up("sgd", ()), None, None, planned))
    values, plans, _ = plan_updates(world, updates, "step")
    step = StepEntry("step", None, StepSettings("data"), {}, None, {}, {}, Node({}, "r.yaml", {}), Place("r.yaml"))
    return StepPlan(step, 0, None, shuffled, {}, values, plans, {})


def closure(case: Case, names: Sequence[str]) -> set[str]:
    """The names and all that they need."""
    found = set(names)
    while more := {need for name in found for need in case.needs.get(name, ())} - found:
        found |= more
    return found


def models(case: Case, name: str) -> set[str]:
    return closure(case, [name]) & set(MODELS)


def asked(case: Case, index: int) -> set[str]:
    """Everything that an update uses."""
    return closure(case, [name for loss in case.losses[index] for name in loss])


@given(cases())
def test_every_value_stands_after_what_it_needs(case: Case) -> None:
    made = plan(case)

    order = list(made.values)
    for name, needs in case.needs.items():
        if name in order:
            assert all(order.index(need) < order.index(name) for need in needs)
    for update in made.updates.values():
        assert list(update.order) == [name for name in order if name in update.order]


@given(cases())
def test_only_what_some_loss_needs_is_planned(case: Case) -> None:
    made = plan(case)

    assert set(made.values) == set().union(*(asked(case, index) for index in range(len(case.updates))))
    for index, update in enumerate(made.updates.values()):
        assert set(update.order) == asked(case, index) & set(case.needs)
        for loss, needs in zip(update.losses.values(), case.losses[index], strict=True):
            assert loss.closure == closure(case, needs)


@given(cases())
def test_a_value_knows_the_models_and_values_upstream(case: Case) -> None:
    made = plan(case)

    for name, value in made.values.items():
        assert value.models == models(case, name)
        assert value.upstream == closure(case, [name]) - {name}


@given(cases())
def test_a_loss_reaches_a_model_by_a_way_without_a_cut(case: Case) -> None:
    made = plan(case)

    for index, update in enumerate(made.updates.values()):
        for loss, needs, cuts in zip(update.losses.values(), case.losses[index], case.cuts[index], strict=True):
            ways: list[tuple[str, ...]] = [(name,) for name in needs]
            found: set[str] = set()
            while ways:
                way = ways.pop()
                if way[-1] in cuts:
                    continue
                found.add(way[-1])
                ways += [(*way, need) for need in case.needs.get(way[-1], ())]
            assert loss.reaches == found & set(case.updates[index])


@given(cases())
def test_values_are_reused_carried_and_dropped_as_when_a_batch_is_run_by_hand(case: Case) -> None:
    made = plan(case)

    # By hand: what is computed lies in a store, until a model upstream of it is stepped.
    store: dict[str, int] = {}
    instances: list[tuple[str, list[int]]] = []
    used: list[dict[str, int]] = []
    for index, trains in enumerate(case.updates):
        reused = set()
        for name in sorted(asked(case, index)):
            if name in store:
                reused.add(name)
            else:
                store[name] = len(instances)
                instances.append((name, []))
            instances[store[name]][1].append(index)
        used.append({name: store[name] for name in asked(case, index)})
        assert made.updates[f"u{index}"].reused == reused & set(case.needs)
        gone = {name for name in made.values if name in case.needs and models(case, name) & set(trains)}
        assert made.updates[f"u{index}"].stale == gone
        store = {name: number for name, number in store.items() if name not in gone or name not in case.needs}

    for index, update in enumerate(made.updates.values()):
        assert set(update.carries) == set(used[index])
        for name, number in used[index].items():
            if name in case.needs:
                # An instance leads to the models of every update that uses it from now on.
                later = [use for use in instances[number][1] if use >= index]
                expected = set().union(*(models(case, name) & set(case.updates[use]) for use in later))
                assert update.carries[name] == expected


@given(cases())
def test_a_value_carries_gradient_only_if_a_trained_model_lies_upstream(case: Case) -> None:
    made = plan(case)

    for index, update in enumerate(made.updates.values()):
        for name in update.order:
            assert update.gradient(made.values[name]) == models(case, name) & set(case.updates[index])
            assert update.gradient(made.values[name]) <= update.carries[name]
