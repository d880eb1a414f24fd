"""A recipe being executed: its parts, where it is, and the warnings about its datasets."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fluxflow_registry.contracts import Position, Source, SourceExtras
from fluxflow_registry.engine.data.batches import Batch
from fluxflow_registry.engine.data.order import with_batches
from fluxflow_registry.engine.data.survey import data_notes
from fluxflow_registry.engine.graph.calls import Interrupted
from fluxflow_registry.engine.graph.randomness import prefer_repeatable
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.checkpoints import RunCheckpoints, RunHistory
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.engine.run.observers import ObservedRun, Observers
from fluxflow_registry.engine.training.component_state import InitialState
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan, StepPlan


class RunData:
    """The opened datasets of a run; warns of samples that are damaged or in no batch, of each once."""

    def __init__(self, sources: Mapping[str, Source], history: RunHistory, observers: Observers) -> None:
        self.sources = sources
        self._history = history
        self._reported: set[str] = set()
        self._observers = observers

    def report_replaced(self, dataset: str, batch: Batch, position: Position) -> None:
        """Warn of the damaged samples that others replace in a batch, of each once in a run."""
        known = self._history.damaged.setdefault(dataset, {}) if batch.replaced else {}
        for replaced in batch.replaced:
            if str(replaced.index) not in known:
                known[str(replaced.index)] = str(replaced.problem)
                message = f"dataset `{dataset}`: sample {replaced.index} is damaged; the next sample replaces it"
                self._observers.warn(position, f"{message}\n    {replaced.problem}")

    def report_notes(self, step: StepPlan, position: Position) -> None:
        """Warn of what is noted about the data of a step, such as samples that are left out, once in this process."""
        for note in data_notes(step, self.sources):
            if note not in self._reported:
                self._reported.add(note)
                self._observers.warn(position, note)

    def report_changed(self, saved: Mapping[str, str], position: Position) -> None:
        """Warn of datasets that have changed since they were saved: the order of their samples is a different one."""
        for name, digest in self._history.data.items():
            if saved.get(name, digest) != digest:
                message = f"dataset `{name}` has changed since the run was saved: training continues with the new data"
                self._observers.warn(position, message)


# More than a dozen members: what a run owns, and whether it is to stop.
class Run:
    """Everything that a run owns; the loop advances it, and observers see an ObservedRun."""

    def __init__(
        self, plan: RecipePlan, folder: RunFolder, sources: Mapping[str, Source], device: torch.device
    ) -> None:
        prefer_repeatable(device)
        self.plan = plan = with_batches(plan, sources)
        self.folder = folder
        self.device = device
        self.models = build_models(plan, device)
        #: The step that is being trained; None before the first.
        self.live: LiveStep | None = None
        known = {name: SourceExtras.of(source).digest for name, source in sources.items()}
        digests = {name: str(digest) for name, digest in known.items() if digest is not None}
        self.history = RunHistory(folder.digest, [step.name for step in plan.steps], digests)
        #: Why the run is asked to stop; None as long as it is not.
        self.stopping: str | None = None
        #: Whether it waits for data now, which a request to stop interrupts.
        self.waiting = False
        self.observers = Observers(plan.observers, ObservedRun(self))
        self.data = RunData(sources, self.history, self.observers)
        self.checkpoints = RunCheckpoints(folder, self.models, self.history, self.observers)
        self._initial_state = InitialState(plan.steps)

    def prepare(self, step: StepPlan) -> LiveStep:
        """A step at its start, with the models as they are."""
        self._initial_state.restore(step)
        source = self.data.sources[step.settings.dataset]
        return LiveStep(step, source, self.models, self.plan.recipe.seed, self.device, self.plan.solver)

    def request_stop(self, reason: str) -> None:
        """Ask the run to stop, from the handler of a signal; raises Interrupted where the run waits for data."""
        self.stopping = self.stopping or reason
        if self.waiting:
            self.waiting = False  # once: what follows saves a checkpoint
            raise Interrupted

    def before_batch(self, position: Position) -> None:
        """Called before each batch is trained on; a replay ends here."""
