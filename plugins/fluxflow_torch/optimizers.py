"""Options of torch's optimizers; torch is imported when one is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

#: Options of torch's that have no use here, and why; a test holds the others against torch's signatures.
LEFT_OUT: Mapping[str, str] = {
    "capturable": "no step is captured in a CUDA graph",
    "differentiable": "nothing takes a gradient through a step",
    "decoupled_weight_decay": "AdamW is Adam with it",
}


def _betas(_: Any, attribute: Any, betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas are in [0, 1), not {list(betas)}")


def _positive(default: float) -> Any:
    return field(default=default, validator=validators.gt(0))


def _at_least_zero(default: float) -> Any:
    return field(default=default, validator=validators.ge(0))


def _alone(optimizer: Any, _: Any, foreach: bool | None) -> None:
    if foreach and optimizer.fused:
        raise ValueError("foreach and fused exclude each other: foreach needs `fused: false`")


def _foreach() -> Any:
    return field(default=None, validator=_alone)


def _nesterov(optimizer: Any, _: Any, nesterov: bool) -> None:
    if nesterov and (optimizer.momentum <= 0 or optimizer.dampening != 0):
        raise ValueError("nesterov needs momentum above 0 and no dampening")


@frozen
class AdamW:
    """torch.optim.AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = _positive(1e-3)
    """Learning rate."""
    betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_betas)
    """Decay of the running averages of the gradient and of its square."""
    eps: float = _at_least_zero(1e-8)
    """Added to the denominator."""
    weight_decay: float = _at_least_zero(1e-2)
    """Decay of the weights, times the learning rate."""
    amsgrad: bool = False
    """Whether to divide by the largest second moment so far (Reddi et al., 2018)."""
    maximize: bool = False
    """Whether to climb instead of descend."""
    foreach: bool | None = _foreach()
    """Without `fused`: one kernel for each operation on all parameters; None: where torch thinks it faster."""
    fused: bool = True
    """One fused kernel for all parameters; much faster, on a CPU too."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.AdamW(parameters, **asdict(self))


@frozen
class Adam:
    """torch.optim.Adam (Kingma and Ba, 2015)."""

    lr: float = _positive(1e-3)
    """Learning rate."""
    betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_betas)
    """Decay of the running averages of the gradient and of its square."""
    eps: float = _at_least_zero(1e-8)
    """Added to the denominator."""
    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""
    amsgrad: bool = False
    """Whether to divide by the largest second moment so far (Reddi et al., 2018)."""
    maximize: bool = False
    """Whether to climb instead of descend."""
    foreach: bool | None = _foreach()
    """Without `fused`: one kernel for each operation on all parameters; None: where torch thinks it faster."""
    fused: bool = True
    """One fused kernel for all parameters; much faster, on a CPU too."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.Adam(parameters, **asdict(self))


@frozen
class SGD:
    """torch.optim.SGD: stochastic gradient descent, with momentum where asked (Sutskever et al., 2013)."""

    lr: float = _positive(1e-3)
    """Learning rate."""
    momentum: float = _at_least_zero(0.0)
    """Share of the last step in the next."""
    dampening: float = 0.0
    """Keeps this share of the gradient out of the momentum."""
    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""
    nesterov: bool = field(default=False, validator=_nesterov)
    """Nesterov's momentum; needs momentum above 0 and no dampening."""
    maximize: bool = False
    """Whether to climb instead of descend."""
    foreach: bool | None = _foreach()
    """Without `fused`: one kernel for each operation on all parameters; None: where torch thinks it faster."""
    fused: bool = True
    """One fused kernel for all parameters."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.SGD(parameters, **asdict(self))


@frozen
class RMSprop:
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
    """Share of the last step in the next."""
    centered: bool = False
    """Whether to divide by the variance instead of the second moment."""
    maximize: bool = False
    """Whether to climb instead of descend."""
    foreach: bool | None = None
    """One kernel for each operation on all parameters; None: where torch thinks it faster."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.RMSprop(parameters, **asdict(self))


@frozen
class Lion:
    """Sign of an interpolated momentum, with decoupled weight decay (Chen et al., 2023).

    c = beta_1 m + (1 - beta_1) g;  w <- w - lr (sign(c) + weight_decay w);  m <- beta_2 m + (1 - beta_2) g.
    Every weight moves by lr, so that the paper takes an lr of a tenth to a third of AdamW's and a weight_decay as
    many times larger.
    """

    lr: float = _positive(1e-4)
    """Learning rate."""
    betas: tuple[float, float] = field(default=(0.9, 0.99), validator=_betas)
    """Share of the momentum in a step's direction, and decay of the momentum."""
    weight_decay: float = _at_least_zero(0.0)
    """Decay of the weights, times the learning rate."""
    maximize: bool = False
    """Whether to climb instead of descend."""
    foreach: bool = True
    """One kernel for each operation on all parameters, or one for each parameter, which needs less memory."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        from fluxflow_torch import lion

        return lion.Lion(parameters, **asdict(self))


@frozen
class Muon:
    """torch.optim.Muon (Jordan et al., 2024) for parameters with two dimensions, AdamW for all others.

    m <- momentum m + (1 - momentum) g;  w <- (1 - lr weight_decay) w - lr' O(m), where O makes all singular values
    nearly 1 by ns_steps steps of Newton and Schulz, and lr' is lr as adjust_lr_fn says. Needs torch 2.9.
    """

    lr: float = _positive(1e-3)
    """Learning rate."""
    weight_decay: float = _at_least_zero(0.1)
    """Decay of the matrices, times the learning rate."""
    momentum: float = _at_least_zero(0.95)
    """Decay of the running average of the gradient."""
    nesterov: bool = True
    """Whether the gradient enters the direction once more, as in Nesterov's momentum."""
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    """Coefficients a, b, c of a step x <- a x + b (x x^T) x + c (x x^T)^2 x."""
    eps: float = _positive(1e-7)
    """Least norm by which a direction is divided."""
    ns_steps: int = field(default=5, validator=[validators.ge(1), validators.lt(100)])
    """Steps of Newton and Schulz."""
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] | None = None
    """How lr follows the shape: original (as None) for an lr of Muon's own, match_rms_adamw for one of AdamW's size."""
    adamw_lr: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """AdamW's learning rate; None: lr."""
    adamw_betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_betas)
    """AdamW's betas."""
    adamw_eps: float = _at_least_zero(1e-8)
    """AdamW's eps."""
    adamw_weight_decay: float = _at_least_zero(1e-2)
    """AdamW's weight decay."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer; raises RuntimeError where torch has no Muon."""
        from fluxflow_torch.muon import MuonWithAdamW

        own = {name: value for name, value in asdict(self).items() if not name.startswith("adamw_")}
        adamw = AdamW(self.adamw_lr or self.lr, self.adamw_betas, self.adamw_eps, self.adamw_weight_decay)
        return MuonWithAdamW(parameters, own, asdict(adamw))
