"""The laws that a component obeys are held when it is registered, with the place where it breaks them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import CONTEXT, KINDS
from fluxflow_registry.errors import PluginError
from fluxflow_registry.registry.registry import Registry, from_modules
from fluxflow_registry.registry.signature import definition, fields_of, key_of, read

from ..synthetic import plugin

if TYPE_CHECKING:
    from decimal import Decimal


def starred(image: Any, *rest: Any) -> Any:
    """Takes whatever comes."""


def keyworded(image: Any, **rest: Any) -> Any:
    """Takes whatever comes."""


def positional(image: Any, /, other: Any) -> Any:
    """Cannot be called by name."""


def needy(image: Any, latent: Any, scale: float = 1.0, *, generator: Any, bias: float = 0.0) -> Any:
    """Needs three, and has two affairs of its own."""


class Wanting:
    """Takes constructor arguments, but declares no fields."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


class Silent:
    """Cannot be called."""


@frozen
class Weighty:
    """Claims an option of the recipe's own entry."""

    weight: float = 1.0

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


@frozen
class Renaming:
    """Claims it under another attribute's name."""

    with_: int = field(default=1, metadata={"key": "with"})

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


@frozen
class Unresolved:
    """Has an option whose type is there for type checkers alone."""

    amount: Decimal

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


@frozen
class Inner:
    """Keeps state of its own whose type is there for type checkers alone."""

    scale: int = 1
    _cache: Decimal | None = field(default=None, init=False)
    default_weight: ClassVar[float] = 2.0

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


@define
class Fieldless:
    """A dataset that does not say what a batch holds."""

    def __call__(self) -> Any:
        """Do nothing."""


class Unfinished:
    """Has a field, but is no attrs class."""

    scale: int = field(default=1)

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


class Deaf:
    """Listens for what no run tells."""

    @hookimpl
    def epoch_endet(self, run: Any) -> None:
        """Never called."""


class Unmarked:
    """Listens without a mark."""

    def epoch_ended(self, run: Any) -> None:
        """Never called."""


class Curious:
    """Wants to know what it is not told."""

    @hookimpl
    def epoch_ended(self, run: Any, weights: Any) -> None:
        """Cannot be called."""


def asks_params(params: Any) -> Any:
    """An optimizer that names its need otherwise."""


def asks_image(image: Any) -> Any:
    """A model builder that wants a batch."""


def register(plural: str, component: Any, name: str = "made_up") -> Registry:
    return from_modules({"memory": plugin(**{plural: {name: component}})})


@pytest.mark.parametrize(
    ("plural", "component", "told"),
    [
        ("losses", starred, "`*rest` cannot be filled: a component names each value that it needs"),
        ("values", keyworded, "`**rest` cannot be filled: a component names each value that it needs"),
        ("metrics", positional, "`image` is positional-only, but values are given by name"),
        ("optimizers", asks_params, "optimizer `made_up` asks for `params`, which no optimizer is given"),
        ("models", asks_image, "model `made_up` asks for `image`, which no model is given"),
        ("schedulers", asks_params, "scheduler `made_up` asks for `params`"),
        ("transitions", asks_image, "transition `made_up` asks for `image`"),
        ("balancers", asks_image, "balancer `made_up` asks for `image`"),
        ("samplers", asks_image, "sampler `made_up` asks for `image`"),
        ("losses", Wanting, "loss `made_up` takes `width` but declares no fields: make it an attrs class"),
        ("losses", Unfinished, "loss `made_up` has the field `scale` but is no attrs class: put `@frozen` above it"),
        ("losses", Weighty, "option `weight` of loss `made_up` belongs to the recipe's own entry"),
        ("values", Renaming, "option `with` of value `made_up` belongs to the recipe's own entry"),
        ("losses", Unresolved, "loss `made_up` has an option whose type is not known at run time"),
        ("datasets", Fieldless, "dataset `made_up` has no method `fields`"),
    ],
)
def test_a_broken_law_is_told_with_the_place_where_it_is_broken(plural: str, component: Any, told: str) -> None:
    where, _ = definition(component if not isinstance(component, type) else component.__call__)

    with pytest.raises(PluginError) as caught:
        register(plural, component)

    (problem,) = caught.value.problems
    assert problem.message.startswith(told)
    assert problem.where == where
    assert "test_signatures.py:" in str(where)


@pytest.mark.parametrize(
    ("component", "told", "notes"),
    [
        (Deaf, "observer `made_up` listens for `epoch_endet`, which no run tells", {"nearest": "epoch_ended"}),
        (Unmarked, "`epoch_ended` of observer `made_up` is not marked: put `@hookimpl` above it", {}),
        (
            Curious,
            "`epoch_ended` of observer `made_up` asks for `weights`, which it is not told",
            {"told": "position, run, step, summaries"},
        ),
    ],
)
def test_an_observer_that_would_hear_nothing_is_told_so(component: Any, told: str, notes: dict[str, str]) -> None:
    with pytest.raises(PluginError) as caught:
        register("observers", component)

    (problem,) = caught.value.problems
    assert problem.message == told
    assert "test_signatures.py:" in str(problem.where)
    assert notes.items() <= dict(problem.notes).items()


def test_a_refused_need_is_told_with_what_the_kind_is_given() -> None:
    with pytest.raises(PluginError) as caught:
        register("optimizers", asks_params)

    (problem,) = caught.value.problems
    notes = dict(problem.notes)
    assert notes["defined as"] == "def asks_params(params)"
    assert notes["offered"] == "parameters"


@pytest.mark.parametrize("plural", [kind.plural for kind in KINDS.values() if kind.called])
def test_a_class_that_cannot_be_called_is_refused_by_every_kind_that_is(plural: str) -> None:
    with pytest.raises(PluginError, match="`made_up` has no `__call__`"):
        register(plural, Silent)


def test_an_observer_needs_no_call() -> None:
    registry = register("observers", Silent)

    assert registry.get("observer", "made_up") is not None


@pytest.mark.parametrize("plural", [kind.plural for kind in KINDS.values()])
def test_what_is_no_component_is_refused_by_every_kind_without_an_address(plural: str) -> None:
    with pytest.raises(PluginError) as caught:
        register(plural, object())

    assert "is neither a function nor a class, but object" in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(CONTEXT))
def test_no_value_may_take_a_name_of_the_engine(name: str) -> None:
    with pytest.raises(PluginError, match=f"`{name}` is provided by the engine itself"):
        register("values", asks_image, name)


@given(st.text(max_size=6).filter(lambda name: not name.isidentifier()))
def test_a_name_that_is_no_word_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match=r"is no name for a loss: letters, digits and _"):
        register("losses", asks_image, name)


def test_one_plugin_may_register_a_name_once_in_a_kind_and_once_in_another() -> None:
    module = plugin(losses={"velocity": asks_image}, values={"velocity": asks_image})

    registry = from_modules({"memory": module})

    assert registry.get("loss", "velocity") is not None
    assert registry.get("value", "velocity") is not None


def test_a_name_registered_twice_by_one_plugin_is_told_with_the_first_place() -> None:
    class Twice:
        def items(self) -> list[tuple[str, Callable[..., Any]]]:
            return [("same", asks_image), ("same", needy)]

    with pytest.raises(PluginError) as caught:
        from_modules({"memory": plugin(losses=Twice())})  # type: ignore[arg-type]

    (problem,) = caught.value.problems
    assert problem.message == "plugin `memory` registers loss `same` twice"
    assert problem.where == definition(needy)[0]
    assert dict(problem.notes)["first"] == str(definition(asks_image)[0])


def test_needs_are_the_parameters_without_defaults() -> None:
    signature = read(needy)

    assert signature.needs == ("image", "latent", "generator")
    assert signature.text == "def needy(image, latent, scale, generator, bias)"


def test_needs_are_read_from_the_raw_component_behind_a_wrapper() -> None:
    @functools.wraps(needy)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        return needy(*arguments, **named)

    signature = read(wrapped)

    assert signature.needs == read(needy).needs
    assert signature.where == read(needy).where


def test_a_call_that_takes_no_self_keeps_its_first_parameter() -> None:
    class Static:
        @staticmethod
        def __call__(image: Any) -> Any:
            """Made up."""

    class Ordinary:
        def __call__(self, image: Any) -> Any:
            """Made up."""

    assert read(Static).needs == read(Ordinary).needs == ("image",)
    assert read(Ordinary()).needs == ("image",)


@pytest.mark.parametrize("annotation", ["nn.Module", "torch.nn.Module", "'CompressorModule'", "ExpanderModule"])
def test_a_need_annotated_as_a_module_is_known_to_be_a_model(annotation: str) -> None:
    def value(image: Any, compressor: Any) -> Any:
        """Made up."""

    value.__annotations__["compressor"] = annotation

    signature = read(value)

    assert signature.models == {"compressor"}


def test_options_are_the_fields_that_a_constructor_takes() -> None:
    options = fields_of(Inner)

    assert [(key_of(option), option.type) for option in options] == [("scale", int)]


def test_options_of_a_base_class_are_options_too() -> None:
    @frozen
    class Derived(Inner):
        extra: str = ""

    options = fields_of(Derived)

    assert [(key_of(option), option.type) for option in options] == [("scale", int), ("extra", str)]
