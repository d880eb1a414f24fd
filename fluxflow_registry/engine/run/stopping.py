"""How a run is interrupted: whatever it is doing is given up, or the loop stops it with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fluxflow_registry.contracts import NoisePath, Position, Sampler, VelocityField


class Interrupted(Exception):  # noqa: N818 - not an error: what is being computed is computed again on resuming
    """The run was asked to stop while an observer samples or an evaluation is measured."""


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run has stopped with a checkpoint saved."""

    def __init__(self, position: Position) -> None:
        super().__init__("stopped")
        self.position = position


def interruptible(sampler: Sampler | None, check: Callable[[], None]) -> Sampler | None:
    """The sampler with `check` called at each of its steps; `check` raises Interrupted to end it."""
    if sampler is None:
        return None

    def checked(velocity: VelocityField, noise: Tensor, path: NoisePath) -> Tensor:
        def field(x: Tensor, t: Tensor) -> Tensor:
            check()
            return velocity(x, t)

        return sampler(field, noise, path)

    return checked
