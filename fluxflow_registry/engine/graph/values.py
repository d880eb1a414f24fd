"""The values of one batch: each computed once, kept until a model upstream of it is stepped."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor, nn

from fluxflow_registry.check.checker import ConfiguredComponent
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.engine.graph.tensors import describe, detach, map_tensors
from fluxflow_registry.errors import Location, Problem, TrainingError, one_line
from fluxflow_registry.plan.values import Value
from fluxflow_registry.registry.signature import shorten


@define
class Instance:
    """A computed value: with its history, and without.

    Where the graph is split at it, `whole` starts a new history at `leaves`, and `origin` is the
    value as it was computed: gradients that arrive at the leaves are walked on from there.
    """

    whole: Any
    origin: Any = None
    _bare: Any = None

    @property
    def bare(self) -> Any:
        """The value without its history."""
        if self._bare is None:
            self._bare = detach(self.whole)
        return self._bare


@frozen
class Binding:
    """How one value is computed: the call and, for each parameter, where its argument comes from."""

    name: str
    call: Callable[..., Any]
    values: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    context: tuple[tuple[str, str], ...]
    wants_generator: tuple[str, ...]
    where: Location


def bind(
    name: str, needs: Mapping[str, str], call: Callable[..., Any], values: Mapping[str, Value], where: Location
) -> Binding:
    """Sort the needs of a component by where they come from, once, outside the loop."""
    by_source: dict[str, list[tuple[str, str]]] = {"field": [], "model": [], "context": [], "value": []}
    for parameter, source in needs.items():
        by_source[values[source].source].append((parameter, source))
    return Binding(
        name=name,
        call=call,
        values=(*by_source["field"], *by_source["value"]),
        models=tuple(by_source["model"]),
        context=tuple(item for item in by_source["context"] if item[1] != "generator"),
        wants_generator=tuple(p for p, source in by_source["context"] if source == "generator"),
        where=where,
    )


class Values:
    """Computes the planned values of batch after batch.

    `models` is looked up at every call, so that averaged weights can take the models' place.
    """

    def __init__(
        self,
        values: Mapping[str, Value],
        providers: Mapping[str, ConfiguredComponent],
        models: Mapping[str, nn.Module],
        draws: Draws,
        splits: Iterable[str] = (),
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.plan = values
        self.models = models
        self.draws = draws
        self.splits = frozenset(splits)
        self.autocast = autocast
        #: Models whose update has not started: no graph is kept for them.
        self.asleep: frozenset[str] = frozenset()
        #: Is told what was computed: kind (`value`, `loss`, or `total`, an update's weighted sum), name, itself.
        self.watch: Callable[[str, str, Any], None] | None = None
        self.context: dict[str, Any] = {}
        self.kept: dict[str, Instance] = {}
        self.bindings = {
            name: bind(name, value.needs, providers[name].instance, values, providers[name].component.signature.where)
            for name, value in values.items()
            if value.source == "value"
        }

    def begin(self, batch: Mapping[str, Any], **context: Any) -> None:
        """Forget the batch before and take the fields of this one."""
        self.kept = {name: Instance(field, None, field) for name, field in batch.items()}
        self.context = context

    def compute(self, order: Iterable[str], carries: Mapping[str, frozenset[str]]) -> None:
        """Compute what is not kept, in order; a value that carries no gradient keeps no history."""
        with self.autocast():
            for name in order:
                if name not in self.kept:
                    self.kept[name] = self._compute(self.bindings[name], carries[name] - self.asleep)

    def _compute(self, binding: Binding, carries: frozenset[str]) -> Instance:
        arguments = self.arguments(binding, carries)
        try:
            with torch.set_grad_enabled(bool(carries)):
                value = binding.call(**arguments)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise failed("value", binding, arguments, error) from error
        if self.watch is not None:
            self.watch("value", binding.name, value)
        if carries and binding.name in self.splits:
            return Instance(map_tensors(_leaf, value), value)
        return Instance(value)

    def arguments(self, binding: Binding, carries: frozenset[str], as_float: bool = False) -> dict[str, Any]:
        """The arguments of a call; a value that leads to none of `carries` is given without history."""
        arguments: dict[str, Any] = {parameter: self.models[model] for parameter, model in binding.models}
        for parameter, source in binding.values:
            kept = self.kept[source]
            value = kept.whole if carries & self.plan[source].models else kept.bare
            arguments[parameter] = map_tensors(_to_float, value) if as_float else value
        for parameter, source in binding.context:
            arguments[parameter] = self.context[source]
        if binding.models:
            # Layers such as dropout draw from torch's own generators.
            self.draws.seed_global(binding.name)
        for parameter in binding.wants_generator:
            arguments[parameter] = self.draws.generator(binding.name)
        return arguments

    def forget(self, names: Iterable[str]) -> None:
        """Drop values that no longer hold because a model upstream was stepped."""
        for name in names:
            self.kept.pop(name, None)


def evaluate(values: Values, names: Iterable[str]) -> dict[str, Any]:
    """The named values of the batch at hand, without gradient."""
    wanted = list(names)
    needed = set(wanted).union(*(values.plan[name].upstream for name in wanted))
    order = [name for name, value in values.plan.items() if value.source == "value" and name in needed]
    values.compute(order, dict.fromkeys(order, frozenset[str]()))
    return {name: values.kept[name].bare for name in wanted}


def failed(kind: str, binding: Binding, arguments: Mapping[str, Any], error: Exception) -> TrainingError:
    """What went wrong in a component, with what it was given."""
    given = tuple((f"given {name}", describe(value)) for name, value in arguments.items())
    notes = (("defined in", str(binding.where)), *raised_at(error), *given)
    return TrainingError(Problem(f"{kind} `{binding.name}` failed: {one_line(error)}", None, notes))


def raised_at(error: BaseException) -> tuple[tuple[str, str], ...]:
    """The note that says which line of a component raised: the last one that is neither torch's nor ours."""
    engine = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(engine) and f"{os.sep}site-packages{os.sep}torch{os.sep}" not in frame.filename
    ]
    if not frames or frames[-1].lineno is None:
        return ()
    return (("raised at", f"{shorten(frames[-1].filename)}:{frames[-1].lineno}  {frames[-1].line or ''}".rstrip()),)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
