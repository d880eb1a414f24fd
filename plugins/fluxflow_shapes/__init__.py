"""Shapes: a captioned dataset rendered by rule, and a metric that judges images generated from its captions."""

from __future__ import annotations

from fluxflow_registry import Dataset, Metric, Register, hookimpl

from .dataset import Shapes
from .judge import ShapesJudge


@hookimpl
def fluxflow_register_datasets(register: Register[Dataset]) -> None:
    """Register the dataset."""
    register("shapes", Shapes)


@hookimpl
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Register the metric."""
    register("shapes_judge", ShapesJudge)
