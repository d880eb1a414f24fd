"""Observers: the console, metrics as JSON lines and charts, images, a report, and warnings about losses."""

from __future__ import annotations

from fluxflow_registry import Observer, Register, hookimpl

from .console.observer import Console
from .graphs.observer import Graphs
from .jsonl import Jsonl
from .pictures import Pictures
from .report import Report
from .samples import Samples
from .watchdog import Watchdog


@hookimpl
def fluxflow_register_observers(register: Register[Observer]) -> None:
    """Register all observers; those with `default = True` join every run."""
    register("console", Console)
    register("graphs", Graphs)
    register("jsonl", Jsonl)
    register("pictures", Pictures)
    register("report", Report)
    register("samples", Samples)
    register("watchdog", Watchdog)
