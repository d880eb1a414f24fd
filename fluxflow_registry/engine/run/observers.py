"""Notifying observers: each event of a run, in order, with the view of the run that they may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from fluxflow_registry.contracts import Lifecycle, Position, RunView
from fluxflow_registry.engine.data.batches import Reader, to_device
from fluxflow_registry.engine.data.declared import Declared
from fluxflow_registry.engine.data.order import first_bucket
from fluxflow_registry.engine.graph.calls import Interrupted
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.engine.run.evaluation import Sampling
from fluxflow_registry.engine.run.stopping import interruptible, raise_if_stopping, waiting
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.errors import FluxflowError, TrainingError, one_line
from fluxflow_registry.plan.component import ConfiguredComponent

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.checkpoints import Means
    from fluxflow_registry.engine.run.run import Run

#: Events that a resumed run repeats, so that an observer may be interrupted in them.
REPEATED = frozenset({"step_started", "epoch_started", "evaluated", "epoch_ended", "step_ended", "run_ended"})


class Observers:
    """The observers of a run, notified of its events; `run` is what they see of it."""

    def __init__(self, configured: Mapping[str, ConfiguredComponent], run: RunView) -> None:
        self._run = run
        self._manager = pluggy.PluginManager("fluxflow")
        self._manager.add_hookspecs(Lifecycle)
        #: Observers that could not write, with the number of the error.
        self._excused: set[tuple[str, int | None]] = set()
        for label, observer in configured.items():
            self._manager.register(observer.instance, label)

    def register(self, observer: Any) -> None:
        """Add an observer that the recipe does not name."""
        self._manager.register(observer)

    def notify(self, event: str, **facts: Any) -> None:
        """Notify each observer of an event; one that raises ends the run by name, unless it cannot write a file."""
        arguments = {"run": self._run, **facts}
        for hook in reversed(getattr(self._manager.hook, event).get_hookimpls()):
            try:
                hook.function(**{name: arguments[name] for name in hook.argnames})
            except FluxflowError:
                raise
            except Interrupted:
                # In other events the batch is already counted: the run stops at its end.
                if event in REPEATED:
                    raise
            except OSError as error:
                self._excuse(hook.plugin_name, event, error, facts.get("position", Position()))
            except Exception as error:
                message = f"observer `{hook.plugin_name}` failed in `{event}`: {one_line(error)}"
                raise TrainingError(message, code="component-failed") from error

    def warn(self, position: Position, message: str) -> None:
        """Notify the observers of something that the user should know."""
        self.notify("warned", position=position, message=message)

    def _excuse(self, observer: str, event: str, error: OSError, position: Position) -> None:
        """Warn once of an observer that cannot write a file: training does not depend on it."""
        if (observer, error.errno) not in self._excused:
            self._excused.add((observer, error.errno))
            self.warn(position, f"observer `{observer}` failed in `{event}`: {one_line(error)}; training continues")


class ObservedRun:
    """What observers see of a run: `RunView`.

    `engine` is the run itself. Only observers of the framework's own may use it.
    """

    def __init__(self, run: Run) -> None:
        self.engine = run
        self.session = datetime.now().strftime("%Y%m%d_%H%M%S")
        self.name, self.steps = run.plan.recipe.name, run.plan.steps
        self.results: Mapping[str, Mapping[str, Mapping[str, float]]] = run.history.results
        self.history: Means = run.history.means

    @property
    def folder(self) -> Path:
        """The run's folder; raises TrainingError if it was deleted or moved, so that nothing is written beside it."""
        self.engine.folder.require()
        return self.engine.folder.path

    def warn(self, position: Position, message: str) -> None:
        """Notify all observers of something that the user should know."""
        self.engine.observers.warn(position, message)

    def peek(self, dataset: str, count: int) -> dict[str, Any]:
        """The first `count` samples of a dataset, as a batch on the run's device; all of the first one's bucket."""
        run = self.engine
        source = run.data.sources[dataset]
        order = first_bucket(source)
        declared = Declared(dataset, run.plan.fields(dataset))
        reader = Reader(source, order, derive(run.plan.recipe.seed, "peek", dataset), declared)
        batch = waiting(run, partial(reader.read, 0, min(count, len(order))))
        run.data.report_replaced(dataset, batch, Position())
        return to_device(batch.fields, run.device)

    def upstream(self, value: str, fields: Iterable[str]) -> frozenset[str] | None:
        """The models on which a value depends if it is computed from these fields; None where it cannot be computed."""
        known = set(fields)
        sized = bool(known & {"image", "image_size"}) or self._image_size is not None
        values, problems = self._sampling.resolve([value], known - {"image_size"}, sized)
        return None if problems else values[value].models

    def draw(self, values: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Values computed from `batch` without gradient, with averaged weights where there are any."""
        live = self.engine.live
        fields = {name: field for name, field in batch.items() if name != "image_size"}
        size = size_of(batch) or batch.get("image_size") or self._image_size
        raise_if_stopping(self.engine)
        with live.aside() if live else nullcontext():
            return self._sampling.compute(values, to_device(fields, self.engine.device), size)

    @property
    def _image_size(self) -> tuple[int, int] | None:
        """Height and width of the images that the present step trains on."""
        return self.engine.live.plan.image_size if self.engine.live else None

    @property
    def _sampling(self) -> Sampling:
        """How values are computed now: by the present step; before the first one, by the last."""
        run = self.engine
        step, models = (run.live.plan, run.live.evaluation_models()) if run.live else (run.plan.steps[-1], run.models)
        return Sampling(run.plan, step, models, run.device, interruptible(run.plan.solver, run), run.plan.recipe.seed)
