"""Warnings about losses and updates that start after the end of their step."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.cli.output import say
from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.training.late_start import too_late
from fluxflow_registry.engine.training.step import with_batches
from fluxflow_registry.plan.steps import RecipePlan


def warn_of_late_starts(plan: RecipePlan, sources: Mapping[str, Source]) -> None:
    """Warn before training of what would never take effect: a mistake in a long run, and fine in a short trial."""
    for step in with_batches(plan, sources).steps:
        for problem in too_late(step):
            say(f"warning: {problem}")
