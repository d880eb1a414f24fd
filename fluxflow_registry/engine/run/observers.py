"""Notifying observers: each event of a run, in order, with the view of the run that they may use."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from fluxflow_registry.contracts import Lifecycle, ObserverExtras, Position, RunView
from fluxflow_registry.engine.data.batches import Reader, to_device
from fluxflow_registry.engine.data.declared import Declared
from fluxflow_registry.engine.data.order import first_bucket
from fluxflow_registry.engine.graph.calls import Interrupted
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.engine.run.evaluation import Sampling
from fluxflow_registry.engine.run.folder import FolderLostError
from fluxflow_registry.engine.run.stopping import interruptible, raise_if_stopping, waiting
from fluxflow_registry.engine.training.step import size_of
from fluxflow_registry.errors import FluxflowError, Problem, TrainingError, in_short, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.registry.signature import raised_at

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.checkpoints import Means
    from fluxflow_registry.engine.run.run import Run

#: Events that a resumed run repeats, so that an observer may be interrupted in them.
REPEATED = frozenset({"step_started", "epoch_started", "evaluated", "epoch_ended", "step_ended", "run_ended"})

#: Errors of a disk that has no space for a file; there may be some later.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Observers:
    """The observers of a run, notified of its events; `run` is what they see of it."""

    def __init__(self, configured: Mapping[str, ConfiguredComponent], run: RunView) -> None:
        self._run = run
        self._manager = pluggy.PluginManager("fluxflow")
        self._manager.add_hookspecs(Lifecycle)
        #: Observers whose failure ends the run.
        self._required: set[str] = set()
        #: Observers that found a disk full, with the number of the error.
        self._excused: set[tuple[str, int | None]] = set()
        #: The position of the last event.
        self._position = Position()
        for label, observer in configured.items():
            self._manager.register(observer.instance, label)
            if ObserverExtras.of(observer.instance).required:
                self._required.add(label)

    def register(self, observer: Any) -> None:
        """Add an observer that the recipe does not name, and whose failure ends the run."""
        name = self._manager.register(observer)
        assert name is not None
        self._required.add(name)

    def notify(self, event: str, **facts: Any) -> None:
        """Notify each observer of an event; one that raises is reported and dropped, or ends the run if required."""
        arguments = {"run": self._run, **facts}
        self._position = facts.get("position", self._position)
        for hook in reversed(getattr(self._manager.hook, event).get_hookimpls()):
            if not self._manager.has_plugin(hook.plugin_name):  # it failed in a warning meanwhile
                continue
            try:
                hook.function(**{name: arguments[name] for name in hook.argnames})
            except FolderLostError:
                raise
            except Interrupted:
                # In other events the batch is already counted: the run stops at its end.
                if event in REPEATED:
                    raise
            except Exception as error:
                self._failed(hook.plugin_name, event, error)

    def fail(self, error: BaseException) -> None:
        """Notify observers of the error that ends the run; whatever they raise, that one counts."""
        with suppress(FluxflowError):
            self.notify("run_failed", position=self._position, error=in_short(error))

    def warn(self, position: Position, message: str) -> None:
        """Notify the observers of something that the user should know."""
        self.notify("warned", position=position, message=message)

    def _failed(self, observer: str, event: str, error: Exception) -> None:
        """Report an observer that failed, once, and drop it; a full disk may have space again, so then it stays.

        Raises TrainingError where it is required, and the disk is not full; and the observer's own FluxflowError
        where it is the answer to a recipe of which nothing is trained yet.
        """
        cause = error.problems[0].message if isinstance(error, FluxflowError) else one_line(error)
        notes = error.problems[0].notes if isinstance(error, FluxflowError) else raised_at(error)
        message = f"observer `{observer}` failed in `{event}`: {cause}"
        if isinstance(error, OSError) and error.errno in FULL:
            if (observer, error.errno) not in self._excused:
                self._excused.add((observer, error.errno))
                self.warn(self._position, f"{message}; training continues")
            return
        fresh = event == "run_started" and isinstance(error, FluxflowError) and self._position == Position()
        if observer in self._required or fresh:
            if isinstance(error, FluxflowError):
                raise error if event == "run_started" else TrainingError(error.problems) from error
            raise TrainingError(message, None, notes, code="component-failed", subject=observer) from error
        self._manager.unregister(name=observer)
        message += "; it is no longer notified, and training continues"
        report = str(Problem(message, None, notes, code="component-failed", subject=observer))
        self.warn(self._position, report)
        if not self._manager.hook.warned.get_hookimpls() and sys.stderr is not None:  # it was the console
            with suppress(OSError, ValueError):
                print(f"warning: {report}", file=sys.stderr, flush=True)


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
        """The run's folder; raises FolderLostError if it was deleted or moved, so that nothing is written beside it."""
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
