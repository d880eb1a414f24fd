"""Shapes: a captioned data set drawn by rule, and a judge of pictures drawn from its captions."""

from __future__ import annotations

from fluxflow_registry import Register, hookimpl
from fluxflow_shapes.dataset import Shapes
from fluxflow_shapes.judge import ShapesJudge


@hookimpl
def fluxflow_register_datasets(register: Register) -> None:
    """Offer the dataset."""
    register("shapes", Shapes)


@hookimpl
def fluxflow_register_metrics(register: Register) -> None:
    """Offer the metric."""
    register("shapes_judge", ShapesJudge)
