"""The rules of a component are verified when it is registered; a problem has the file and line that breaks them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import CONTEXT, KINDS
from fluxflow_registry.errors import Location, Place, PluginError
from fluxflow_registry.registry.discovery import from_modules
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.registry.signature import definition, fields_of, key_of, read

from ..synthetic import plugin

if TYPE_CHECKING:
    from decimal import Decimal


def starred(image: Any, *rest: Any) -> Any:
    """Takes anything."""


def keyworded(image: Any, **rest: Any) -> Any:
    """Takes anything."""


def positional(image: Any, /, other: Any) -> Any:
    """Cannot be called by name."""


def needy(image: Any, latent: Any, scale: float = 1.0, *, generator: Any, bias: float = 0.0) -> Any:
    """Needs three, and has two parameters of its own."""


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
    """Has an option with a key of the recipe's own entry."""

    weight: float = 1.0

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


@frozen
class Renaming:
    """Has it under another attribute's name."""

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
    """A dataset that does not describe its batches."""

    def __call__(self) -> Any:
        """Do nothing."""


@dataclass
class Decorated:
    """Has a field, but of another library."""

    eps: float = 1.0

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


class Defaulting:
    """Takes a constructor argument with a default, but declares no fields."""

    def __init__(self, eps: float = 1.0) -> None:
        self.eps = eps

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


class Private(Defaulting):
    """Takes a constructor argument that no recipe is meant to set."""

    def __init__(self, _client: Any = None) -> None:
        self.client = _client


class Unfinished:
    """Has a field, but is not an attrs class."""

    scale: int = field(default=1)

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


class Deaf:
    """Has a hook that is not an event."""

    @hookimpl
    def epoch_endet(self, run: Any) -> None:
        """Never called."""


class Unmarked:
    """Has a hook without a mark."""

    def epoch_ended(self, run: Any) -> None:
        """Never called."""


class Curious:
    """Requests an argument that the event does not have."""

    @hookimpl
    def epoch_ended(self, run: Any, weights: Any) -> None:
        """Cannot be called."""


def asks_params(params: Any) -> Any:
    """An optimizer with another name for its parameter."""


def asks_image(image: Any) -> Any:
    """A model builder that wants a batch."""


def register(plural: str, component: Any, name: str = "made_up") -> Registry:
    return from_modules({"memory": plugin(**{plural: {name: component}})})


def line_at(where: Location | None) -> str:
    """The line of this file that a problem is about."""
    assert isinstance(where, Place)
    assert where.line is not None
    assert where.file.endswith("test_signatures.py")
    return Path(__file__).read_text().splitlines()[where.line - 1]


@pytest.mark.parametrize(
    ("plural", "component", "message", "line"),
    [
        ("losses", starred, "loss `made_up` takes `*rest`: declare a parameter for each value that it needs", "def "),
        (
            "values",
            keyworded,
            "value `made_up` takes `**rest`: declare a parameter for each value that",
            "def keyworded",
        ),
        ("metrics", positional, "`image` of metric `made_up` is positional-only, but values are", "def positional"),
        ("optimizers", asks_params, "optimizer `made_up` requests `params`, but a call of", "def asks_params"),
        ("models", asks_image, "model `made_up` requests `image`, but a call of this kind", "def asks_image"),
        ("schedulers", asks_params, "scheduler `made_up` requests `params`", "def asks_params"),
        ("transitions", asks_image, "transition `made_up` requests `image`", "def asks_image"),
        ("balancers", asks_image, "balancer `made_up` requests `image`", "def asks_image"),
        ("samplers", asks_image, "sampler `made_up` requests `image`", "def asks_image"),
        ("losses", Wanting, "loss `made_up` takes `width` but has no fields: make it an attrs class", "def __init__"),
        ("losses", Unfinished, "loss `made_up` has the field `scale` but is not an attrs class: put", "scale: int"),
        (
            "losses",
            Decorated,
            "loss `made_up` has the field `eps` but is not an attrs class: put attrs' `@frozen`",
            "eps: ",
        ),
        ("losses", Defaulting, "loss `made_up` takes `eps` but has no fields: make it an attrs class", "def __init__"),
        ("observers", Defaulting, "observer `made_up` takes `eps` but has no fields: make it an attrs", "def __init__"),
        ("losses", Weighty, "option `weight` of loss `made_up` has a name that belongs to the", "weight: float"),
        ("values", Renaming, "option `with` of value `made_up` has a name that belongs to the", "with_: int"),
        ("losses", Unresolved, "loss `made_up` has an option whose type is unknown at run time", "@frozen"),
        ("datasets", Fieldless, "dataset `made_up` has no method `fields`", "@define"),
    ],
)
def test_a_component_that_breaks_a_rule_is_reported_with_the_line_that_breaks_it(
    plural: str, component: Any, message: str, line: str
) -> None:
    with pytest.raises(PluginError) as caught:
        register(plural, component)

    (problem,) = caught.value.problems
    assert problem.message.startswith(message)
    assert line_at(problem.where).strip().startswith(line)


@pytest.mark.parametrize(
    ("component", "message", "nearest"),
    [
        (Deaf, "hook `epoch_endet` of observer `made_up` is not an event of a run", "epoch_ended"),
        (Unmarked, "`epoch_ended` of observer `made_up` is not marked as a hook: put `@hookimpl` above it", None),
        (Curious, "hook `epoch_ended` of observer `made_up` requests `weights`, which the event does not have", None),
    ],
)
def test_an_observer_that_would_not_be_notified_is_rejected(component: Any, message: str, nearest: str | None) -> None:
    with pytest.raises(PluginError) as caught:
        register("observers", component)

    (problem,) = caught.value.problems
    assert problem.message == message
    assert problem.nearest == nearest
    assert "test_signatures.py:" in str(problem.where)


def test_a_parameter_that_a_kind_is_not_passed_is_reported_with_those_that_it_is() -> None:
    with pytest.raises(PluginError) as caught:
        register("optimizers", asks_params)

    (problem,) = caught.value.problems
    assert dict(problem.notes)["defined in"] == f"{problem.where}  def asks_params(params)"
    assert problem.choices is not None
    assert problem.choices.available == ("parameters",)


@pytest.mark.parametrize("plural", [kind.plural for kind in KINDS.values() if kind.events is None])
def test_a_class_without_a_call_is_rejected_by_every_kind_that_is_called(plural: str) -> None:
    with pytest.raises(PluginError, match="`made_up` has no `__call__`"):
        register(plural, Silent)


def test_a_constructor_may_have_arguments_that_no_recipe_sets() -> None:
    assert register("losses", Private).get("loss", "made_up") is not None


def test_an_observer_needs_no_call() -> None:
    registry = register("observers", Silent)

    assert registry.get("observer", "made_up") is not None


@pytest.mark.parametrize("plural", [kind.plural for kind in KINDS.values()])
def test_an_object_that_is_not_callable_is_rejected_without_its_address(plural: str) -> None:
    with pytest.raises(PluginError) as caught:
        register(plural, object())

    assert "must be a function or a class, not object" in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(CONTEXT))
def test_no_value_may_have_a_name_of_the_engine(name: str) -> None:
    with pytest.raises(PluginError, match=f"`{name}` is provided by the engine itself"):
        register("values", asks_image, name)


@given(st.text(max_size=6).filter(lambda name: not name.isidentifier()))
def test_a_name_that_is_not_a_word_is_rejected(name: str) -> None:
    with pytest.raises(PluginError, match=r"is not valid: use letters, digits and _"):
        register("losses", asks_image, name)


def test_one_plugin_may_register_a_name_once_in_a_kind_and_once_in_another() -> None:
    module = plugin(losses={"velocity": asks_image}, values={"velocity": asks_image})

    registry = from_modules({"memory": module})

    assert registry.get("loss", "velocity") is not None
    assert registry.get("value", "velocity") is not None


def test_a_name_registered_twice_by_one_plugin_is_reported_with_both_locations() -> None:
    class Twice:
        def items(self) -> list[tuple[str, Callable[..., Any]]]:
            return [("same", asks_image), ("same", needy)]

    with pytest.raises(PluginError) as caught:
        from_modules({"memory": plugin(losses=Twice())})  # type: ignore[arg-type]

    (problem,) = caught.value.problems
    assert problem.message == "plugin `memory` registers loss `same` twice"
    assert problem.where == definition(needy)[0]
    assert dict(problem.notes)["see also"] == str(definition(asks_image)[0])


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


def test_keyword_only_options_come_after_all_others() -> None:
    @frozen
    class Shared:
        first: int = 0
        last: int = field(default=0, kw_only=True)

    @frozen
    class Derived(Shared):
        own: int = 0

    assert [key_of(option) for option in fields_of(Derived)] == ["first", "own", "last"]
