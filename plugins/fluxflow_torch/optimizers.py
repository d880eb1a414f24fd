"""Options of torch's optimizers; torch is imported when one is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from attrs import asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer


def _betas(_: Any, attribute: Any, betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas are in [0, 1), not {list(betas)}")


def _positive(default: float) -> Any:
    return field(default=default, validator=validators.gt(0))


def _at_least_zero(default: float) -> Any:
    return field(default=default, validator=validators.ge(0))


@frozen
class AdamW:
    """torch.optim.AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = _positive(1e-3)
    """Learning rate."""
    betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_betas)
    """Decay of the running averages of the gradient and of its square."""
    eps: float = _positive(1e-8)
    """Added to the denominator."""
    weight_decay: float = _at_least_zero(1e-2)
    """Decay of the weights, times the learning rate."""
    amsgrad: bool = False
    """Whether to divide by the largest second moment so far (Reddi et al., 2018)."""
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
    eps: float = _positive(1e-8)
    """Added to the denominator."""
    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""
    amsgrad: bool = False
    """Whether to divide by the largest second moment so far (Reddi et al., 2018)."""
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
    nesterov: bool = False
    """Nesterov's momentum; needs momentum above 0 and no dampening."""
    fused: bool = True
    """One fused kernel for all parameters."""

    def __attrs_post_init__(self) -> None:
        """Hold torch's own rule."""
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum above 0 and no dampening")

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
    eps: float = _positive(1e-8)
    """Added to the denominator."""
    weight_decay: float = _at_least_zero(0.0)
    """L2 penalty, added to the gradient."""
    momentum: float = _at_least_zero(0.0)
    """Share of the last step in the next."""
    centered: bool = False
    """Whether to divide by the variance instead of the second moment."""

    def __call__(self, parameters: Iterable[Parameter]) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.RMSprop(parameters, **asdict(self))
