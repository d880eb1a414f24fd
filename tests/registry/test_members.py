"""An optional member that is misspelled, or takes the wrong parameters, is rejected: it would silently do nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define, field, frozen

from fluxflow_registry import Field, hookimpl
from fluxflow_registry.contracts import KINDS, Extras, Kind, Source, SourceExtras, Weigher
from fluxflow_registry.errors import PluginError, Problem
from fluxflow_registry.registry.discovery import from_modules, load
from fluxflow_registry.registry.members import check_product, component_problems
from fluxflow_registry.registry.registry import Component

from ..synthetic import plugin


@frozen
class Case:
    """A member of a component of a kind, or of what the call of such a component builds."""

    kind: Kind
    name: str
    member: Any
    built: bool
    extras: type[Extras]

    def __str__(self) -> str:
        return f"{self.kind.product.name if self.built and self.kind.product else self.kind.name}.{self.name}"

    @property
    def parameters(self) -> list[str] | None:
        """The parameters of a method but `self`; None for an attribute."""
        return list(inspect.signature(self.member).parameters)[1:] if callable(self.member) else None

    def source(self, name: str, parameters: list[str] | None) -> str:
        """A plugin whose component has this member alone, under a name and with parameters of the test's choice."""
        value = None if callable(self.member) else self.member
        own = f"{name} = {value!r}" if parameters is None else f"def {name}({', '.join(['self', *parameters])}): ..."
        mine, others = ("", own) if not self.built else (own, "")
        call = ", ".join(["self", *(["image"] if self.kind.parameters is None else self.kind.parameters)])
        return f"""from fluxflow_registry import hookimpl

class Built:
    {mine}
    {"" if name == "batch" or self.name == "batch" else "def batch(self, indices, seed): ..."}
    def __len__(self): ...
    def __call__(self, losses): ...

class Component:
    {others}
    {"" if "fields" in (name, self.name) or self.kind.name != "dataset" else "def fields(self): ..."}
    {f"def __call__({call}) -> Built: ..." if self.kind.events is None else ""}

@hookimpl
def {self.kind.hook}(register):
    register("mine", Component)
"""


def cases() -> Iterator[Case]:
    """Every member that a component of some kind may have, and every one that it must have."""
    for kind in KINDS.values():
        described = [(False, kind.extras, kind.protocol)]
        described += [(True, kind.product.extras, kind.product.protocol)] if kind.product else []
        for built, extras, protocol in described:
            required = {name: each for name, each in vars(protocol).items() if inspect.isfunction(each)}
            for name, member in {**extras.members(), **required}.items():
                if not name.startswith("_"):
                    yield Case(kind, name, member, built, extras)


CASES = list(cases())
#: Where one of two is there, the other is missing too; here the one is looked at alone.
ALONE = {"misspelled-member", "wrong-parameters", "wrong-type"}


def slips(name: str) -> set[str]:
    """Every name that is this one with a letter dropped, added, replaced, or swapped with its neighbor."""
    places = range(len(name))
    dropped = {name[:i] + name[i + 1 :] for i in places}
    added = {name[:i] + "q" + name[i:] for i in (*places, len(name))}
    replaced = {name[:i] + "q" + name[i + 1 :] for i in places}
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in places[:-1]}
    return {each for each in {*dropped, *added, *replaced, *swapped} if each[0] != "_"} - {name}


@pytest.fixture(autouse=True)
def _no_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through what is installed takes longer than all the rest of a test."""
    monkeypatch.setattr("fluxflow_registry.registry.discovery.distributions", list)


def problems_of(tmp_path: Path, source: str) -> tuple[Path, list[Problem]]:
    path = tmp_path / "mine.py"
    path.write_text(source)
    try:
        load([], [path])
    except PluginError as error:
        return path, [problem for problem in error.problems if problem.code in ALONE]
    return path, []


def assert_is_at(problem: Problem, path: Path, start: str) -> None:
    where: Any = problem.where
    assert Path(where.file) == path or str(path).endswith(where.file)
    assert path.read_text().splitlines()[where.line - 1].strip().startswith(start)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_member_is_accepted_as_it_is_described(tmp_path: Path, case: Case) -> None:
    assert problems_of(tmp_path, case.source(case.name, case.parameters))[1] == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_misspelling_of_a_member_is_rejected_with_the_nearest_name(case: Case) -> None:
    known = {each.name for each in CASES if (each.kind, each.built) == (case.kind, case.built)}
    for name in slips(case.name) - known:
        own = {"__module__": "nowhere", name: case.member if callable(case.member) else None}  # no source to look up
        built = type("Built", (), {"__len__": len, "__call__": len, "batch": Source.batch, **own})
        named = type("Component", (), {"fields": lambda self: {}, "__call__": lambda self: None, **own})
        if case.name == "batch":
            del built.batch  # type: ignore[attr-defined]
        if case.name == "fields":
            del named.fields  # type: ignore[attr-defined]

        if case.built:
            component = Component(case.kind.name, "mine", named, None, None)  # type: ignore[arg-type]
            with pytest.raises(PluginError) as caught:
                check_product(component, built())
            problems = list(caught.value.problems)
        else:
            problems = component_problems(case.kind, "it", named)

        assert [(problem.code, problem.subject) for problem in problems] == [("misspelled-member", name)]
        assert problems[0].nearest in {each for each in known if name in slips(each)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_misspelled_member_of_a_plugin_file_is_reported_with_its_line(tmp_path: Path, case: Case) -> None:
    name = case.name[0] + case.name[2:]

    path, (problem,) = problems_of(tmp_path, case.source(name, case.parameters))

    assert (problem.code, problem.subject, problem.nearest) == ("misspelled-member", name, case.name)
    assert_is_at(problem, path, f"{name} = " if case.parameters is None else f"def {name}(")


def wrong_parameters() -> Iterator[Any]:
    """Every method with a parameter too many, one that is missing, misspelled, out of order, or passed by name only."""
    for case in CASES:
        if case.parameters is not None:
            expected = case.parameters
            free = any(each.kind is each.POSITIONAL_ONLY for each in inspect.signature(case.member).parameters.values())
            wrong = {"more": [*expected, "extra"], "named": [*expected, "*", "extra"], "fewer": expected[:-1]}
            wrong |= {} if free else {"misspelled": [*expected[:-1], *(f"{each}q" for each in expected[-1:])]}
            wrong |= {"reordered": expected[::-1]}
            for how, parameters in wrong.items():
                if parameters != expected:
                    yield pytest.param(case, parameters, id=f"{case}-{how}")


@pytest.mark.parametrize(("case", "parameters"), list(wrong_parameters()))
def test_a_method_with_wrong_parameters_is_rejected_with_its_line(
    tmp_path: Path, case: Case, parameters: list[str]
) -> None:
    path, (problem,) = problems_of(tmp_path, case.source(case.name, parameters))

    assert (problem.code, problem.subject) == ("wrong-parameters", case.name)
    assert_is_at(problem, path, f"def {case.name}(")
    assert dict(problem.notes)["instead"] == f"def {case.name}({', '.join(['self', *(case.parameters or [])])})"
    if parameters[-1:] == [f"{each}q" for each in (case.parameters or [])[-1:]]:
        assert problem.nearest == (case.parameters or [])[-1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_method_in_place_of_an_attribute_is_rejected_and_the_reverse(tmp_path: Path, case: Case) -> None:
    path, (problem,) = problems_of(tmp_path, case.source(case.name, [] if case.parameters is None else None))

    assert (problem.code, problem.subject) == ("wrong-type", case.name)
    assert_is_at(problem, path, f"def {case.name}(" if case.parameters is None else f"{case.name} = ")


@pytest.mark.parametrize("member", ["state_dict", "load_state_dict"])
@pytest.mark.parametrize("plural", ["losses", "values", "transitions"])
def test_a_component_with_one_half_of_a_state_is_rejected(plural: str, member: str) -> None:
    class Half:
        def __call__(self) -> None: ...

    setattr(Half, member, lambda self, *state: {})

    with pytest.raises(PluginError, match=rf"has `{member}` but not `(load_)?state_dict`: each needs the other"):
        from_modules({"memory": plugin(**{plural: {"half": Half}})})


@frozen
class Watching:
    """A transition with an option that is one letter from a method."""

    metric: str = "vae_loss"
    _metrics: int = field(default=0, init=False)

    def metrics(self) -> list[str]:
        return [self.metric]

    def __call__(self, epoch: int) -> None: ...

    def _directed_(self) -> None: ...


@frozen
class Slipped:
    """A scheduler with an option that is one letter from an attribute."""

    intervall: str = "batch"

    def __call__(self, optimizer: Any) -> Any: ...


@define(slots=False)
class Looser:
    """A scheduler without slots, whose options are no attributes of its class."""

    intervall: str = "batch"

    def __call__(self, optimizer: Any) -> Any: ...


class Painter:
    """An observer with a helper beside the member of nearly its name."""

    def draws(self) -> list[Any]:
        return []

    def draw(self, image: Any, where: Any) -> None: ...

    @hookimpl
    def step_ended(self, step: Any) -> None: ...


class Helping:
    """An observer whose own methods have nearly the names of members, and take what those are not passed."""

    def draw(self, image: Any, where: Any) -> None: ...

    def metric(self, name: str) -> float:
        return 0.0

    def evaluate(self, batch: Any) -> None: ...


class Reading:
    """A loss that reads a file by a method of nearly a member's name."""

    def read(self, path: str) -> Any: ...

    def __call__(self, image: Any) -> Any: ...


class Network(torch.nn.Module):
    """A loss that is a torch module, whose methods torch names."""

    def __call__(self, image: Any) -> Any: ...


class Careless:
    """A dataset that does not use what it is passed."""

    def fields(self) -> dict[str, Field]:
        return {}

    @staticmethod
    def overlap(_: str, __: str, ___: object) -> None: ...

    def __call__(self) -> Any: ...


class Delegating:
    """A loss that passes its state on."""

    def __call__(self, image: Any) -> Any: ...

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return {}

    @classmethod
    def load_state_dict(cls, whatever: Any) -> None: ...


@pytest.mark.parametrize(
    ("plural", "component"),
    [
        ("transitions", Watching),
        ("observers", Painter),
        ("observers", Helping),
        ("losses", Reading),
        ("losses", Network),
        ("datasets", Careless),
        ("losses", Delegating),
    ],
)
def test_a_member_that_cannot_be_meant_otherwise_is_accepted(plural: str, component: Any) -> None:
    assert from_modules({"memory": plugin(**{plural: {"mine": component}})}).plugins[0].error is None


@pytest.mark.parametrize("component", [Slipped, Looser])
def test_an_option_that_is_a_misspelled_attribute_is_rejected_with_its_line(component: Any) -> None:
    with pytest.raises(PluginError) as caught:
        from_modules({"memory": plugin(schedulers={"mine": component})})

    (problem,) = caught.value.problems
    assert (problem.code, problem.subject, problem.nearest) == ("misspelled-member", "intervall", "interval")
    assert_is_at(problem, Path(__file__), "intervall: str")


def test_an_attribute_of_a_function_is_a_member_as_well() -> None:
    def loss(image: Any) -> Any: ...

    loss.default_wieght = 2.0  # type: ignore[attr-defined]

    with pytest.raises(PluginError, match="`default_wieght` of loss `mine` looks like a misspelling of"):
        from_modules({"memory": plugin(losses={"mine": loss})})


@pytest.mark.parametrize(
    ("plural", "name", "value", "expected"),
    [
        ("schedulers", "interval", "step", "`interval` of scheduler `mine` must be one of batch, epoch, got 'step'"),
        ("schedulers", "metric", 3, "`metric` of scheduler `mine` must be a string or null, got 3"),
        ("losses", "default_weight", "high", "`default_weight` of loss `mine` must be a number, got 'high'"),
        ("losses", "default_weight", None, "`default_weight` of loss `mine` must be a number, got None"),
        ("transitions", "max_epochs", "3", "`max_epochs` of transition `mine` must be an integer or null, got '3'"),
        ("transitions", "max_epochs", True, "`max_epochs` of transition `mine` must be an integer or null, got True"),
        ("samplers", "steps", 2.5, "`steps` of sampler `mine` must be an integer or null, got 2.5"),
        ("observers", "default", "yes", "`default` of observer `mine` must be true or false, got 'yes'"),
    ],
)
def test_a_wrong_value_of_an_attribute_is_rejected(plural: str, name: str, value: Any, expected: str) -> None:
    component = type("Component", (), {name: value} if plural == "observers" else {"__call__": no_call, name: value})

    with pytest.raises(PluginError) as caught:
        from_modules({"memory": plugin(**{plural: {"mine": component}})})

    (problem,) = caught.value.problems
    assert (problem.message, problem.code, problem.subject) == (expected, "wrong-type", name)
    assert (problem.choices is not None) == (name == "interval")


def no_call(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("plural", "name", "value"),
    [("transitions", "max_epochs", np.int64(3)), ("losses", "default_weight", 2), ("losses", "default_weight", 0.5)],
)
def test_a_number_of_any_class_is_a_number(plural: str, name: str, value: Any) -> None:
    component = type("Component", (), {"__call__": no_call, name: value})

    registry = from_modules({"memory": plugin(**{plural: {"mine": component}})})

    assert registry.plugins[0].error is None


class Bare:
    """A source with attributes of the test's choice."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Any, seed: int) -> dict[str, Any]:
        return {}


class Mistyped(Bare):
    """A source whose property has a mistake in its body."""

    @property
    def buckets(self) -> Any:
        return self.bukcets  # type: ignore[attr-defined]


class Forwarding:
    """A source that has the members of another one."""

    def __init__(self, other: Any) -> None:
        self.other = other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.other, name)


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        (Bare(samples_at_once="many"), "wrong-type", "must be an integer, got 'many'"),
        (Mistyped(), "component-failed", "failed: AttributeError: 'Mistyped' object has no attribute 'bukcets'"),
    ],
)
def test_a_wrong_or_failing_attribute_of_a_source_is_rejected_when_it_is_opened(
    source: Any, code: str, words: str
) -> None:
    component = Component("dataset", "mine", None, None, None)  # type: ignore[arg-type]

    with pytest.raises(PluginError) as caught:
        check_product(component, source)

    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.message.endswith(words)


def test_an_error_within_an_optional_member_is_not_a_missing_member() -> None:
    with pytest.raises(AttributeError, match="bukcets"):
        _ = SourceExtras.of(Mistyped()).buckets
    assert SourceExtras.of(Bare()).buckets is None
    assert SourceExtras.of(Forwarding(Bare(views=3))).views == 3
    assert SourceExtras.of(Forwarding(Bare())).views == 1


def test_a_property_cannot_stand_for_what_is_read_from_the_class() -> None:
    class Joining:
        @property
        def default(self) -> bool:
            return True

    with pytest.raises(PluginError, match="`default` of observer `mine` must be an attribute of the class"):
        from_modules({"memory": plugin(observers={"mine": Joining})})


class Opened:
    """A source that sets what it has when it is opened."""

    def __init__(self, **members: Any) -> None:
        vars(self).update(members)

    def __len__(self) -> int:
        return 1

    def batch(self, indices: Any, seed: int) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("built", "code", "subject"),
    [
        (Opened(note=["one sentence"]), "misspelled-member", "note"),
        (Opened(veiws=2), "misspelled-member", "veiws"),
        (Opened(views=2), "missing-member", "views"),
        (Opened(view=2), "wrong-type", "view"),
        (Opened(name="folder"), "wrong-type", "name"),
        (Opened(name=lambda number: "first"), "wrong-parameters", "name"),
        ([1, 2], "missing-member", "batch"),
        (None, "missing-member", "__len__"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_an_opened_source_is_rejected_for_its_members_too(built: Any, code: str, subject: str) -> None:
    component = from_modules({"memory": plugin(datasets={"mine": Careless})}).components["dataset"]["mine"]

    with pytest.raises(PluginError) as caught:
        check_product(component, built)

    assert (code, subject) in [(problem.code, problem.subject) for problem in caught.value.problems]
    assert all("of dataset `mine`" in problem.message for problem in caught.value.problems)


@pytest.mark.parametrize(
    "built",
    [Opened(), Opened(notes=[], about=[], digest="a", views=1, view=lambda fields, number: fields), Opened(size=3)],
)
def test_a_source_with_the_members_that_are_described_is_accepted(built: Source) -> None:
    component = from_modules({"memory": plugin(datasets={"mine": Careless})}).components["dataset"]["mine"]

    check_product(component, built)


def test_what_a_component_does_not_have_holds_as_its_kind_describes_it() -> None:
    class Half:
        default_weight = 0.5

    extras = KINDS["loss"].extras.of(Half())

    assert extras.default_weight == 0.5  # type: ignore[attr-defined]
    assert extras.ready() is None  # type: ignore[attr-defined]


def test_an_option_does_not_count_for_what_is_read_from_the_class() -> None:
    @frozen
    class Optional:
        better: str = "higher"

    assert KINDS["metric"].extras.of(Optional).better == "lower"  # type: ignore[attr-defined]
    assert KINDS["metric"].extras.of(Optional()).better == "higher"  # type: ignore[attr-defined]


def test_a_weigher_is_any_callable() -> None:
    def balancer(losses: Any) -> Weigher:
        return lambda losses: {}

    component = from_modules({"memory": plugin(balancers={"mine": balancer})}).components["balancer"]["mine"]

    check_product(component, balancer([]))
    with pytest.raises(PluginError, match="weigher `dict` of balancer `mine` has no method `__call__`"):
        check_product(component, {})
