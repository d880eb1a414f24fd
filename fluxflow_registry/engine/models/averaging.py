"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


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

    def adopt(self, model: nn.Module) -> None:
        """Give the model the averaged weights."""
        model.load_state_dict(self.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore averaged weights."""
        self.module.load_state_dict(state)
