"""The events of a run, under the name by which plugins of the first release import them."""

from fluxflow_registry.contracts.lifecycle import Lifecycle, RunView, StepView

__all__ = ["Lifecycle", "RunView", "StepView"]
