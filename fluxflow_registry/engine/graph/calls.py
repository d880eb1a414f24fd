"""How components are called, and what they receive and return: tensors, or tuples, lists and dicts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import evolve, frozen
from torch import OutOfMemoryError, Tensor

from fluxflow_registry.errors import FluxflowError, Location, Problem, TrainingError, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.values import ValuePlan
from fluxflow_registry.registry.members import check_product
from fluxflow_registry.registry.signature import raised_at


class Interrupted(BaseException):
    """The run was asked to stop while it waits for data, an observer samples or an evaluation is measured.

    As with KeyboardInterrupt, a component that catches every Exception does not catch it.
    """


#: What a call of a component may raise that is not a failure of the component.
PASSED_THROUGH = (OutOfMemoryError, FluxflowError, Interrupted)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `function` applied to each tensor in it; everything else is passed through."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        parts = [map_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [map_tensors(function, part) for part in value] if not _texts(value) else value
    if isinstance(value, dict):
        return {key: map_tensors(function, part) for key, part in value.items()}
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Each tensor in `value`, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)) and not _texts(value):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)


def describe(value: Any) -> str:
    """The shapes in `value`, for messages: `[64, 8, 8, 8]`, or `(mean [..], logvar [..])`."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        return "(" + ", ".join(f"{name} {describe(part)}" for name, part in fields) + ")"
    if isinstance(value, (tuple, list)) and not _texts(value):
        return "(" + ", ".join(describe(part) for part in value) + ")"
    if isinstance(value, list):
        return f"{len(value)} strings"
    return type(value).__name__


def _texts(value: Any) -> bool:
    """Whether it is a list of strings, which are many and hold no tensor."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def read_numbers(error: BaseException) -> bool:
    """Whether a component failed since it read a number on the meta device, where there are only shapes (torch)."""
    return "meta" in str(error.__cause__)


def build(configured: ConfiguredComponent, **arguments: Any) -> Any:
    """Call a component with those of the arguments that it needs; a failure names the component and its place."""
    needs = configured.component.signature.needs
    try:
        built = configured.instance(**{name: arguments[name] for name in needs})
        check_product(configured.component, built)
        return built
    except FluxflowError as error:
        if type(error).__init__ is not FluxflowError.__init__ or all(problem.where for problem in error.problems):
            raise
        raise type(error)([evolve(each, where=each.where or configured.where) for each in error.problems]) from error
    except Exception as error:
        message = f"{configured.component.kind} `{configured.name}` cannot be built: {one_line(error)}"
        notes = (("defined in", configured.definition), *raised_at(error))
        problem = Problem(message, configured.where, notes, code="component-failed", subject=configured.label)
        raise TrainingError(problem) from error


@frozen
class Binding:
    """How a component is called on each batch: for each parameter, where its argument comes from."""

    name: str
    component: ConfiguredComponent
    call: Callable[..., Any]
    values: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    context: tuple[tuple[str, str], ...]
    generators: tuple[str, ...]


def bind(name: str, component: ConfiguredComponent, values: Mapping[str, ValuePlan]) -> Binding:
    """Sort the needs of a component by where they come from, once, outside the loop."""
    by_source: dict[str, list[tuple[str, str]]] = {"field": [], "model": [], "context": [], "value": []}
    for parameter, source in component.needs.items():
        by_source[values[source].source].append((parameter, source))
    return Binding(
        name=name,
        component=component,
        call=component.instance,
        values=(*by_source["field"], *by_source["value"]),
        models=tuple(by_source["model"]),
        context=tuple(item for item in by_source["context"] if item[1] != "generator"),
        generators=tuple(p for p, source in by_source["context"] if source == "generator"),
    )


def failed(
    who: str, binding: Binding, arguments: Mapping[str, Any], error: Exception, where: Location | None = None
) -> TrainingError:
    """What went wrong in a component, with what it received."""
    notes = (("defined in", binding.component.definition), *raised_at(error), *_received(arguments))
    message = f"{who} failed: {one_line(error)}"
    return TrainingError(Problem(message, where, notes, code="component-failed", subject=binding.name))


def wrong_return(message: str, binding: Binding, arguments: Mapping[str, Any], subject: str) -> TrainingError:
    """What is wrong with the value that a component returned, with what it received."""
    notes = (("defined in", binding.component.definition), *_received(arguments))
    return TrainingError(Problem(message, binding.component.where, notes, code="wrong-return", subject=subject))


def _received(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("received", f"{name} {describe(value)}") for name, value in arguments.items()]
