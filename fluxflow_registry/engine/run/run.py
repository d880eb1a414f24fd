"""A recipe being executed: its parts, and where it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fluxflow_registry.contracts import Position, Source, SourceExtras
from fluxflow_registry.engine.graph.randomness import prefer_repeatable
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.checkpoints import RunCheckpoints
from fluxflow_registry.engine.run.data import RunData
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.engine.run.history import RunHistory
from fluxflow_registry.engine.run.observers import ObservedRun, Observers
from fluxflow_registry.engine.training.component_state import InitialState
from fluxflow_registry.engine.training.step import LiveStep, with_batches
from fluxflow_registry.plan.steps import RecipePlan, StepPlan


class Run:
    """Everything that a run owns; the loop moves it, and observers see an ObservedRun."""

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
        self.observers = Observers(plan.observers, ObservedRun(self))
        self.data = RunData(sources, self.history, self.observers)
        self.checkpoints = RunCheckpoints(folder, self.models, self.history, self.observers)
        self._initial_state = InitialState(plan.steps)

    def prepare(self, step: StepPlan) -> LiveStep:
        """A step at its start, with the models as they are."""
        self._initial_state.restore(step)
        source = self.data.sources[step.settings.dataset]
        return LiveStep(step, source, self.models, self.plan.recipe.seed, self.device, self.plan.solver)

    def before_batch(self, position: Position) -> None:
        """Called before each batch is trained on; a replay ends here."""
