"""Which parameters of a model training moves, and the exponential moving average of its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_NAME = "_fluxflow_frozen_parameters"


def remember_frozen(model: nn.Module) -> None:
    """Record the parameters that require no gradient when the model is built; a copy of the model has them too."""
    setattr(model, _NAME, frozenset(name for name, p in model.named_parameters() if not p.requires_grad))


def frozen_parameters(model: nn.Module) -> frozenset[str]:
    """The names of the parameters that no update moves."""
    names: frozenset[str] = getattr(model, _NAME, frozenset())
    return names


def require_gradients(model: nn.Module, trained: bool) -> None:
    """Let all parameters but the frozen ones require gradients if the step trains the model, else none."""
    frozen = frozen_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained and name not in frozen)


def trained_parameters(models: Mapping[str, nn.Module], names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of the named models that require gradients, each as `<model>.<its name in the model>`."""
    parameters = {f"{name}.{key}": p for name in names for key, p in models[name].named_parameters()}
    return {key: p for key, p in parameters.items() if p.requires_grad}


class Average:
    """w <- d w + (1 - d) theta after each optimizer step; `module` is a frozen copy of the model with weights w.

    With warm-up d = min(decay, (1 + n) / (10 + n)) after n batches. Buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool) -> None:
        self.decay = decay
        self.warmup = warmup
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._theta = [p.detach() for p in model.parameters()]
        self._w: list[Tensor] = list(self.module.parameters())
        self._model = model

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Average the weights after batch number `done`, counted from 0."""
        decay = min(self.decay, (1 + done) / (10 + done)) if self.warmup else self.decay
        torch._foreach_lerp_(self._w, self._theta, 1 - decay)
        # Looked up each time: a module may replace a buffer by another tensor instead of changing it in place.
        for averaged, trained in zip(self.module.modules(), self._model.modules(), strict=True):
            for name, buffer in trained._buffers.items():
                averaged._buffers[name] = None if buffer is None else buffer.clone()
