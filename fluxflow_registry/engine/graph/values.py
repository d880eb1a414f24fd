"""The values of one batch: each computed once, kept until a model upstream of it is stepped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn

from fluxflow_registry.engine.graph.calls import PASSED_THROUGH, Binding, bind, failed, map_tensors
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.plan.values import ValuePlan


@define
class Instance:
    """A computed value: with its history, and without.

    Where the graph is split at it, `whole` starts a new history at `leaves`, and `origin` is the
    value as it was computed: gradients that arrive at the leaves are propagated from there.
    """

    whole: Any
    origin: Any = None
    _bare: Any = None

    @property
    def bare(self) -> Any:
        """The value without its history."""
        if self._bare is None:
            self._bare = map_tensors(Tensor.detach, self.whole)
        return self._bare


# More than a dozen members: replay, traces and evaluation look at a batch from outside.
class Values:
    """Computes the planned values of batch after batch.

    `models` is looked up at every call, so that averaged weights can replace the models.
    """

    def __init__(
        self,
        values: Mapping[str, ValuePlan],
        models: Mapping[str, nn.Module],
        draws: Draws,
        detached: Iterable[str] = (),
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.plan = values
        self.models = models
        self.draws = draws
        self._detached = frozenset(detached)
        self.autocast = autocast
        #: Models whose updates have not started: no graph is kept for them.
        self.idle: frozenset[str] = frozenset()
        #: Receives what was computed: kind (`value`, `loss`, or `total`, an update's weighted sum), name, itself.
        self.watch: Callable[[str, str, Any], None] | None = None
        self.context: dict[str, Any] = {}
        self.kept: dict[str, Instance] = {}
        self.bindings = {
            name: bind(name, value.provider, values) for name, value in values.items() if value.source == "value"
        }

    def begin(self, batch: Mapping[str, Any], **context: Any) -> None:
        """Drop the values of the batch before and set the fields of this one."""
        self.kept = {name: Instance(field, None, field) for name, field in batch.items()}
        self.context = context

    def compute(self, order: Iterable[str], carries: Mapping[str, frozenset[str]]) -> None:
        """Compute what is missing, in order; a value that carries no gradient keeps no history."""
        with self.autocast():
            for name in order:
                if name not in self.kept:
                    self.kept[name] = self._compute(self.bindings[name], carries[name] - self.idle)

    def _compute(self, binding: Binding, carries: frozenset[str]) -> Instance:
        arguments = self.arguments(binding, carries)
        try:
            with torch.set_grad_enabled(bool(carries)):
                value = binding.call(**arguments)
        except PASSED_THROUGH:
            raise
        except Exception as error:
            raise failed(f"value `{binding.name}`", binding, arguments, error) from error
        if self.watch is not None:
            self.watch("value", binding.name, value)
        if carries and binding.name in self._detached:
            return Instance(map_tensors(_leaf, value), value)
        return Instance(value)

    def arguments(self, binding: Binding, carries: frozenset[str], as_float: bool = False) -> dict[str, Any]:
        """The arguments of a call; a value that leads to none of `carries` is passed without history."""
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
        for parameter in binding.generators:
            arguments[parameter] = self.draws.generator(binding.name)
        return arguments

    def forget(self, names: Iterable[str]) -> None:
        """Drop values that no longer hold because a model upstream was stepped."""
        for name in names:
            self.kept.pop(name, None)


def evaluate(values: Values, names: Iterable[str]) -> dict[str, Any]:
    """The named values of the current batch, without gradient."""
    wanted = list(names)
    needed = set(wanted).union(*(values.plan[name].upstream for name in wanted))
    order = [name for name in values.bindings if name in needed]
    values.compute(order, dict.fromkeys(order, frozenset[str]()))
    return {name: values.kept[name].bare for name in wanted}


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
