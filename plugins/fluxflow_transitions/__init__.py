"""Transitions: when a step ends."""

from __future__ import annotations

from fluxflow_registry import Ending, Register, Transition, counted, hookimpl

from .transitions import AllOf, AnyOf, LossThreshold, Plateau


def epoch(epoch: int, epochs: int) -> Ending | None:
    """Ends after the step's `epochs`, as a step without a transition does."""
    return Ending(counted(epochs, "epoch")) if epoch >= epochs else None


@hookimpl
def fluxflow_register_transitions(register: Register[Transition]) -> None:
    """Register the transitions and their combinations."""
    register("epoch", epoch)
    register("loss_threshold", LossThreshold)
    register("plateau", Plateau)
    register("all", AllOf)
    register("any", AnyOf)
