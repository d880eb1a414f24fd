"""Builders of optimizers; torch is imported only when one is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

#: Options of torch that are left out, and why; a test compares all others with torch's signatures.
LEFT_OUT: Mapping[str, str] = {
    "capturable": "steps are not captured in CUDA graphs",
    "differentiable": "gradients are not taken through steps",
    "decoupled_weight_decay": "AdamW is Adam with it",
}


def _betas(_: Any, attribute: Any, betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {list(betas)}")


def _positive(default: float) -> Any:
    return field(default=default, validator=validators.gt(0))


def _at_least_zero(default: float) -> Any:
    return field(default=default, validator=validators.ge(0))


def _not_fused(builder: Any, _: Any, foreach: bool | None) -> None:
    if foreach and builder.fused:
        raise ValueError("foreach cannot be combined with fused: set `fused: false` to use foreach")


def _nesterov(builder: Any, _: Any, nesterov: bool) -> None:
    if nesterov and (builder.momentum <= 0 or builder.dampening != 0):
        raise ValueError("nesterov needs momentum above 0 and no dampening")


@frozen
class _Adam:
    lr: float = _positive(1e-3)
    """Learning rate."""
    betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_betas)
    """Decay of the running averages of the gradient and of its square."""
    eps: float = _at_least_zero(1e-8)
    """Added to the denominator."""
    amsgrad: bool = field(default=False, kw_only=True)
    """Whether to divide by the largest second moment so far (Reddi et al., 2018)."""
    maximize: bool = field(default=False, kw_only=True)
    """Whether to maximize the loss instead of minimizing it."""
    foreach: bool | None = field(default=None, kw_only=True, validator=_not_fused)
    """Without `fused`: one kernel per operation for all parameters; null: where torch expects it to be faster."""
    fused: bool = field(default=True, kw_only=True)
    """One fused kernel for all parameters; much faster, also on a CPU."""


@frozen
class AdamWBuilder(_Adam):
    """torch.optim.AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    weight_decay: float = _at_least_zero(1e-2)
    """Decay of the weights, times the learning rate."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.AdamW(parameters, **asdict(self))


@frozen
class AdamBuilder(_Adam):
    """torch.optim.Adam (Kingma and Ba, 2015)."""

    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.Adam(parameters, **asdict(self))


@frozen
class SGDBuilder:
    """torch.optim.SGD: stochastic gradient descent, optionally with momentum (Sutskever et al., 2013)."""

    lr: float = _positive(1e-3)
    """Learning rate."""
    momentum: float = _at_least_zero(0.0)
    """Share of the previous step in the next."""
    dampening: float = 0.0
    """Share of the gradient that does not enter the momentum."""
    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""
    nesterov: bool = field(default=False, validator=_nesterov)
    """Nesterov's momentum; needs momentum above 0 and no dampening."""
    maximize: bool = False
    """Whether to maximize the loss instead of minimizing it."""
    foreach: bool | None = field(default=None, validator=_not_fused)
    """Without `fused`: one kernel per operation for all parameters; null: where torch expects it to be faster."""
    fused: bool = True
    """One fused kernel for all parameters."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.SGD(parameters, **asdict(self))


@frozen
class RMSpropBuilder:
    """torch.optim.RMSprop (Tieleman and Hinton, 2012)."""

    lr: float = _positive(1e-2)
    """Learning rate."""
    alpha: float = field(default=0.99, validator=[validators.ge(0), validators.le(1)])
    """Decay of the running average of the squared gradient."""
    eps: float = _at_least_zero(1e-8)
    """Added to the denominator."""
    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""
    momentum: float = _at_least_zero(0.0)
    """Share of the previous step in the next."""
    centered: bool = False
    """Whether to divide by the variance instead of the second moment."""
    maximize: bool = False
    """Whether to maximize the loss instead of minimizing it."""
    foreach: bool | None = None
    """One kernel per operation for all parameters; null: where torch expects it to be faster."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.RMSprop(parameters, **asdict(self))


@frozen
class LionBuilder:
    """Steps by the sign of an interpolated momentum, with decoupled weight decay (Chen et al., 2023).

    c = beta_1 m + (1 - beta_1) g;  w <- w - lr (sign(c) + weight_decay w);  m <- beta_2 m + (1 - beta_2) g.
    Every weight changes by lr, so the paper uses an lr of a tenth to a third of AdamW's and a weight_decay larger by
    the same factor.
    """

    lr: float = _positive(1e-4)
    """Learning rate."""
    betas: tuple[float, float] = field(default=(0.9, 0.99), validator=_betas)
    """Share of the momentum in a step's direction, and decay of the momentum."""
    weight_decay: float = _at_least_zero(0.0)
    """Decay of the weights, times the learning rate."""
    maximize: bool = False
    """Whether to maximize the loss instead of minimizing it."""
    foreach: bool = True
    """One kernel per operation for all parameters; false: one per parameter, which needs less memory."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        from .classes import Lion

        return Lion(parameters, **asdict(self))


@frozen
class MuonBuilder:
    """torch.optim.Muon (Jordan et al., 2024) for parameters with two dimensions, AdamW for all others.

    m <- momentum m + (1 - momentum) g;  w <- (1 - lr weight_decay) w - lr' O(m), where O brings all singular values
    close to 1 by ns_steps Newton-Schulz steps, and lr' is lr adjusted by adjust_lr_fn. Needs torch 2.9.
    """

    lr: float = _positive(1e-3)
    """Learning rate."""
    weight_decay: float = _at_least_zero(0.1)
    """Decay of the matrices, times the learning rate."""
    momentum: float = _at_least_zero(0.95)
    """Decay of the running average of the gradient."""
    nesterov: bool = True
    """Whether to use Nesterov's momentum: the gradient enters the direction once more."""
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    """Coefficients a, b, c of a Newton-Schulz step x <- a x + b (x x^T) x + c (x x^T)^2 x."""
    eps: float = _positive(1e-7)
    """Smallest norm by which a direction is divided."""
    ns_steps: int = field(default=5, validator=[validators.ge(1), validators.lt(100)])
    """Number of Newton-Schulz steps."""
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] | None = None
    """How lr depends on the shape: original (as null) for an lr of Muon's own, match_rms_adamw for one like AdamW's."""
    adamw_lr: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """AdamW's learning rate; null: lr."""
    adamw_betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_betas)
    """AdamW's betas."""
    adamw_eps: float = _at_least_zero(1e-8)
    """AdamW's eps."""
    adamw_weight_decay: float = _at_least_zero(1e-2)
    """AdamW's weight decay."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer; raises RuntimeError if torch has no Muon."""
        from .classes import MuonWithAdamW

        own = {name: value for name, value in asdict(self).items() if not name.startswith("adamw_")}
        lr, weight_decay = self.adamw_lr or self.lr, self.adamw_weight_decay
        adamw = AdamWBuilder(lr, self.adamw_betas, self.adamw_eps, weight_decay)
        return MuonWithAdamW(parameters, own, asdict(adamw))
