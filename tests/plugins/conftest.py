"""A run as observers see it, without an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy
import pytest
from attrs import Factory, define, frozen

from fluxflow_registry import lifecycle


@frozen
class FakeStep:
    name: str = "vae_gan"
    index: int = 0
    epochs: int = 2
    batches: int = 4
    trains: frozenset[str] = frozenset({"expander", "compressor"})
    accumulate: int = 1
    parent: str | None = None


@define
class FakeRun:
    folder: Path
    steps: Sequence[FakeStep] = (FakeStep(),)
    name: str = "small"
    session: str = "20250102_030405"
    results: Mapping[str, Mapping[str, Mapping[str, float]]] = Factory(dict)
    samples: Mapping[str, Any] = Factory(dict)
    values: Mapping[str, Any] = Factory(dict)
    history: Mapping[str, Mapping[str, Sequence[float]]] = Factory(dict)
    #: For each value that can be computed, the models on which it depends.
    depends: Mapping[str, frozenset[str]] = Factory(dict)
    warnings: list[str] = Factory(list)
    #: The arguments of `peek` and `draw`.
    requests: list[Any] = Factory(list)

    def peek(self, dataset: str, count: int) -> dict[str, Any]:
        self.requests.append((dataset, count))
        return {name: field[:count] for name, field in self.samples.items()}

    def draw(self, values: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append((list(values), sorted(batch)))
        return {name: self.values[name] for name in values}

    def upstream(self, value: str, fields: Iterable[str]) -> frozenset[str] | None:
        return self.depends.get(value)

    def warn(self, position: Any, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def steps() -> list[FakeStep]:
    """Two steps: of 2 epochs of 4 batches, and of 3 epochs of 5 batches."""
    return [
        FakeStep("vae_warmup", 0, 2, 4, frozenset({"compressor"})),
        FakeStep("flow", 1, 3, 5, frozenset({"flow"}), parent="vae_warmup"),
    ]


@pytest.fixture
def run(tmp_path: Path, steps: list[FakeStep]) -> FakeRun:
    """A run of both steps."""
    return FakeRun(tmp_path, steps)


@pytest.fixture
def notifier() -> Callable[..., Callable[..., None]]:
    """Notify observers of events through pluggy, as the engine does."""

    def notifier_of(*observers: object) -> Callable[..., None]:
        manager = pluggy.PluginManager("fluxflow")
        manager.add_hookspecs(lifecycle.Lifecycle)
        for observer in observers:
            manager.register(observer)

        def notify(event: str, run: Any, **facts: Any) -> None:
            getattr(manager.hook, event)(run=run, **facts)

        return notify

    return notifier_of
