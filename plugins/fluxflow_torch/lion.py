"""The optimizer Lion, which torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class Lion(torch.optim.Optimizer):
    """Steps by the sign of an interpolated momentum, with decoupled weight decay (Chen et al., 2023, algorithm 2).

    c = beta_1 m + (1 - beta_1) g;  w <- w - lr (sign(c) + weight_decay w);  m <- beta_2 m + (1 - beta_2) g.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        maximize: bool,
        foreach: bool,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        averages = [self.state[weight]["exp_avg"] for weight in weights]
        if group["foreach"]:
            _update(weights, gradients, averages, group)
        else:
            for weight, gradient, average in zip(weights, gradients, averages, strict=True):
                _update([weight], [gradient], [average], group)


def _update(weights: list[Tensor], gradients: list[Tensor], averages: list[Tensor], group: dict[str, Any]) -> None:
    (beta_1, beta_2), lr = group["betas"], group["lr"]
    if group["maximize"]:
        gradients = list(torch._foreach_neg(gradients))
    if group["weight_decay"]:
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
    directions = list(torch._foreach_lerp(averages, gradients, 1 - beta_1))
    torch._foreach_sign_(directions)
    torch._foreach_add_(weights, directions, alpha=-lr)
    torch._foreach_lerp_(averages, gradients, 1 - beta_2)
