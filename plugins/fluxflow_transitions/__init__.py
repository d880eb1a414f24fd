"""Transitions: when a step ends."""

from __future__ import annotations

from fluxflow_registry import Register, Transition, hookimpl

from .transitions import AllOf, AnyOf, LossThreshold, Plateau, SumThreshold, epoch


@hookimpl
def fluxflow_register_transitions(register: Register[Transition]) -> None:
    """Register the transitions and their combinations."""
    register("epoch", epoch)
    register("loss_threshold", LossThreshold)
    register("sum_threshold", SumThreshold)
    register("plateau", Plateau)
    register("all", AllOf)
    register("any", AnyOf)
