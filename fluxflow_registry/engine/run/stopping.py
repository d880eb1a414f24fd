"""How a run is interrupted: what it is computing is given up, or the loop stops it with a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxflow_registry.contracts import NoisePath, Position, Sampler, VelocityField
from fluxflow_registry.engine.graph.calls import Interrupted

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_registry.engine.run.run import Run


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run has stopped with a checkpoint saved."""

    def __init__(self, position: Position) -> None:
        super().__init__("stopped")
        self.position = position


def raise_if_stopping(run: Run) -> None:
    """Raise Interrupted if the run is asked to stop."""
    if run.stopping is not None:
        raise Interrupted


def interruptible(sampler: Sampler | None, run: Run) -> Sampler | None:
    """The sampler; each of its steps raises Interrupted if the run is asked to stop."""
    if sampler is None:
        return None

    def checked(velocity: VelocityField, noise: Tensor, path: NoisePath) -> Tensor:
        def field(x: Tensor, t: Tensor) -> Tensor:
            raise_if_stopping(run)
            return velocity(x, t)

        return sampler(field, noise, path)

    return checked
