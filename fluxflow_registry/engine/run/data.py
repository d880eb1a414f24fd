"""The datasets of a run, and the warnings about their samples."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.contracts import Position, Source
from fluxflow_registry.engine.data.batches import Batch
from fluxflow_registry.engine.data.leftovers import unused_samples
from fluxflow_registry.engine.run.history import RunHistory
from fluxflow_registry.engine.run.observers import Observers


class RunData:
    """The opened datasets of a run; warns of samples that are damaged or in no batch, of each once."""

    def __init__(self, sources: Mapping[str, Source], history: RunHistory, observers: Observers) -> None:
        self.sources = sources
        self._history = history
        self._reported: set[tuple[str, str]] = set()
        self._observers = observers

    def report_replaced(self, dataset: str, batch: Batch, position: Position) -> None:
        """Warn of the damaged samples that others replace in a batch, of each once in a run."""
        known = self._history.damaged.setdefault(dataset, {}) if batch.replaced else {}
        for replaced in batch.replaced:
            if str(replaced.index) not in known:
                known[str(replaced.index)] = str(replaced.problem)
                message = f"dataset `{dataset}`: sample {replaced.index} is damaged; the next one takes its place"
                self._observers.warn(position, f"{message}\n    {replaced.problem}")

    def report_unused(self, dataset: str, batch_size: int, position: Position) -> None:
        """Warn of what a dataset notes, and of the samples that fill no batch of a step, once in this process."""
        for sentence in unused_samples(self.sources[dataset], batch_size):
            if (dataset, sentence) not in self._reported:
                self._reported.add((dataset, sentence))
                self._observers.warn(position, f"dataset `{dataset}`: {sentence}")

    def report_changed(self, saved: Mapping[str, str], position: Position) -> None:
        """Warn of datasets that have changed since they were saved: the order of their samples is a different one."""
        for name, digest in self._history.data.items():
            if saved.get(name, digest) != digest:
                message = f"dataset `{name}` has changed since the run was saved: training continues with the new data"
                self._observers.warn(position, message)
