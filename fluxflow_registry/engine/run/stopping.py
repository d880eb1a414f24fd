"""How a run is interrupted: what it is computing is given up, or the loop stops it with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from fluxflow_registry.contracts import NoisePath, Position, Sampler, VelocityField
from fluxflow_registry.engine.graph.calls import Interrupted

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_registry.engine.run.run import Run


T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run has stopped with a checkpoint saved."""

    def __init__(self, position: Position) -> None:
        super().__init__("stopped")
        self.position = position


def raise_if_stopping(run: Run) -> None:
    """Raise Interrupted if the run is asked to stop."""
    if run.stopping is not None:
        raise Interrupted


def waiting(run: Run, read: Callable[[], T]) -> T:
    """What `read` returns, which may wait for a disk or a server; a request to stop raises Interrupted out of it."""
    run.waiting = True
    try:
        raise_if_stopping(run)
        return read()
    finally:
        run.waiting = False


def waiting_for_each(run: Run, items: Iterator[T]) -> Iterator[T]:
    """The items, each waited for in this way."""
    end = object()
    while (item := waiting(run, lambda: next(items, end))) is not end:
        yield item  # type: ignore[misc]


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
