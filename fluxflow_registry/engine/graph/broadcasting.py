"""Values that a loss or a metric compares although their shapes differ: broadcasting would hide the mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fluxflow_registry.engine.graph.calls import tensors
from fluxflow_registry.errors import Problem, TrainingError
from fluxflow_registry.plan.component import ConfiguredComponent

#: Functions of torch that compare two tensors element by element.
_COMPARING: frozenset[Callable[..., Any]] = frozenset(
    {
        *(torch.sub, torch.subtract, torch.dist, torch.Tensor.sub, torch.Tensor.subtract, torch.Tensor.dist),
        *(torch.Tensor.__sub__, torch.Tensor.__rsub__),
        *(functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
    }
)

#: Functions whose result stands for what they received: names of methods of a tensor.
_PASSING = frozenset(
    {"clamp", "clip", "float", "double", "half", "to", "detach", "clone", "contiguous", "abs", "tanh", "sigmoid"}
)


class _Comparisons(TorchFunctionMode):
    """Records which inputs of different shapes are compared."""

    def __init__(self, inputs: Mapping[int, str]) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.kept: list[Tensor] = []  # as long as they are known by their ids
        self.found: list[tuple[str, list[int], str, list[int]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _COMPARING:
            compared = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)][:2]
            names = [self.inputs.get(id(each)) for each in compared]
            if len(compared) == 2 and None not in names and self._differ(*compared):
                first, second = compared
                self.found.append((str(names[0]), list(first.shape), str(names[1]), list(second.shape)))
        result = func(*args, **kwargs)
        if args and getattr(func, "__name__", "") in _PASSING and isinstance(result, Tensor):
            name = self.inputs.get(id(args[0]))
            if name is not None:
                self.inputs[id(result)] = name
                self.kept.append(result)
        return result

    @staticmethod
    def _differ(first: Tensor, second: Tensor) -> bool:
        """Whether shapes differ; a single number may be subtracted from anything."""
        return first.shape != second.shape and first.numel() > 1 and second.numel() > 1


@contextmanager
def compared_alike(who: str, component: ConfiguredComponent, inputs: Iterable[tuple[str, Any]]) -> Iterator[None]:
    """Require that a component compares its inputs only where they have one shape; raises TrainingError."""
    held = [(name, tensor) for name, value in inputs for tensor in tensors(value)]
    with _Comparisons({id(tensor): name for name, tensor in held}) as comparisons:
        yield
    for one, its_shape, other, other_shape in comparisons.found[:1]:
        message = f"{who} compares `{one}` {its_shape} with `{other}` {other_shape}: broadcasting would repeat one"
        notes = (
            ("hint", f"provide values of one shape, or write `x.expand_as(y)` if `{one}` is meant to be repeated"),
            ("defined in", component.definition),
        )
        raise TrainingError(Problem(message, component.where, notes, code="wrong-shape", subject=component.label))
