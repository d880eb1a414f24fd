"""Optimizers: what moves the parameters of an update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fluxflow_registry.contracts.kind import Kind

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer


class Optimizer(Protocol):
    """A function, or a class with options whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> TorchOptimizer:
        """Build the optimizer of `parameters`."""


OPTIMIZER = Kind("optimizer", "optimizers", "a torch Optimizer", Optimizer, parameters=("parameters",), key="optimizer")
