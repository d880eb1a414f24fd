"""When an update or a loss starts: at a batch of the step, or when a condition is met."""

from __future__ import annotations

from attrs import frozen

from fluxflow_registry.plan.component import ConfiguredComponent


@frozen
class AtBatch:
    """It starts before a batch of the step, counted from 0."""

    batch: int = 0

    @property
    def description(self) -> str:
        """What is waited for, in words; empty where it starts with the step."""
        return f"starts at batch {self.batch}" if self.batch else ""


@frozen(eq=False)
class WhenMet:
    """It starts with the first epoch after the condition of a transition is met, which is checked after each epoch."""

    condition: ConfiguredComponent

    @property
    def description(self) -> str:
        """What is waited for, in words."""
        watched = ", ".join(self.condition.watched_metrics())
        return f"starts by {self.condition.name}" + (f" of {watched}" if watched else "")


Start = AtBatch | WhenMet

#: It starts with the step.
FROM_THE_BEGINNING = AtBatch()
