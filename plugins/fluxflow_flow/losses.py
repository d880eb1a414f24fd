"""The loss of a rectified flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def velocity(velocity: Tensor, velocity_target: Tensor) -> Tensor:
    """Mean of (v(x_t, t) - (x_1 - x_0))^2 over all elements (Liu et al., 2022)."""
    return (velocity - velocity_target).square().mean()
