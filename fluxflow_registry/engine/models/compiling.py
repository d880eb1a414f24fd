"""Compiled models: their forward is compiled, except where its gradient is differentiated a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.contracts import Compile
from fluxflow_registry.engine.graph.calls import tensors
from fluxflow_registry.errors import TrainingError, one_line


def compile_forward(model: nn.Module, label: str, options: Compile) -> None:
    """Compile the calls of a model, in place: names in its state dict do not change.

    The compiler has no second derivatives: without an error it drops the gradient of a gradient. So a backward pass
    that such a gradient needs raises TrainingError.
    """
    # Backward passes that write over what the forward has saved allow no second pass, which `detach` needs.
    torch._functorch.config.donated_buffer = False
    from torch._dynamo.exc import TorchDynamoException  # it is imported by the compiler alone, in seconds

    model.compile(backend=options.backend, mode=options.mode, dynamic=options.dynamic, fullgraph=options.fullgraph)
    compiled: Any = model._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            message = f"model `{label}` cannot be compiled: {one_line(error)}"
            hint = ("hint", f"remove `compile` from model `{label}`, or choose another `backend`")
            raise TrainingError(message, None, [hint], code="component-failed", subject=label) from error

    guard_calls(model, label, call)


def guard_calls(model: nn.Module, label: str, compiled: Any) -> None:
    """Let calls of a model be those of `compiled`, which has no second derivatives."""

    def call(*args: Any, **kwargs: Any) -> Any:
        output = compiled(*args, **kwargs)
        for tensor in outputs(output):
            if tensor.requires_grad:
                tensor.register_hook(partial(_refuse_second_derivative, label))  # type: ignore[no-untyped-call]
        return output

    model._compiled_call_impl = call


def outputs(output: Any) -> Iterator[Tensor]:
    """Each tensor that a model returns: in tuples, lists and dicts, or in the attributes of an object."""
    found = list(tensors(output))
    if not found and not isinstance(output, (str, bytes)):
        names = [*getattr(output, "__dict__", ()), *getattr(type(output), "__slots__", ())]
        found = [tensor for name in names for tensor in tensors(getattr(output, name, None))]
    yield from found


def _refuse_second_derivative(label: str, _: Tensor) -> None:
    """Called with the gradient that arrives at an output: it will be differentiated if gradients are recorded now."""
    if not torch.is_grad_enabled():
        return
    message = f"the gradient of model `{label}` is differentiated again, but the model is compiled"
    hint = ("hint", f"remove `compile` from model `{label}`: torch.compile has no second derivatives")
    raise TrainingError(message, None, [hint], code="conflict", subject=label)


@contextmanager
def uncompiled(models: Iterable[nn.Module]) -> Iterator[None]:
    """Let calls of these models run uncompiled, with the same parameters: second derivatives are right."""
    calls = {model: model._compiled_call_impl for model in models}
    for model in calls:
        model._compiled_call_impl = None
    try:
        yield
    finally:
        for model, call in calls.items():
            model._compiled_call_impl = call
