"""Optimizers and schedulers that torch does not have: Lion, Muon beside AdamW, and a plateau behind a warm-up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .schedulers import START_FACTOR


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
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
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


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for parameters with two dimensions, AdamW for all others.

    Both use the groups and the state of this optimizer, which schedulers change and checkpoints contain.
    Raises RuntimeError if torch has no Muon.
    """

    def __init__(self, parameters: Iterable[Parameter], muon: Mapping[str, Any], adamw: Mapping[str, Any]) -> None:
        build_muon = getattr(torch.optim, "Muon", None)
        if build_muon is None:
            raise RuntimeError(f"torch {torch.__version__} has no Muon: install torch 2.9 or newer")
        every = list(parameters)
        matrices = [parameter for parameter in every if parameter.ndim == 2]
        others = [parameter for parameter in every if parameter.ndim != 2]
        parts = [
            *([build_muon(matrices, **muon)] if matrices else []),
            *([torch.optim.AdamW(others, **adamw)] if others else []),
        ]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Let both update, with groups and state as a scheduler or a checkpoint may have changed them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]
            part.state = self.state
            part.step()
        return loss


class WarmedUpPlateau(ReduceLROnPlateau):
    """Raises the rates linearly over the first `warmup` epochs, and monitors the metric from then on.

    Checkpoints contain the attributes by their names.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.warmup = warmup
        self.risen = 0
        self.full = [float(group["lr"]) for group in optimizer.param_groups]
        self._set_rates()

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Raise the rates for one epoch, or let the plateau see the epoch's metric."""
        if self.risen == self.warmup:
            super().step(metrics, epoch)
            return
        self.risen += 1
        self._set_rates()

    def _set_rates(self) -> None:
        share = START_FACTOR + (1 - START_FACTOR) * self.risen / self.warmup
        for group, rate in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = rate if self.risen == self.warmup else rate * share
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
