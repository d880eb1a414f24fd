"""A step that is being trained: its updates in order on every batch; whether its transition ends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from attrs import asdict
from torch import Tensor, nn

from fluxflow_registry.contracts import Ending, History, Position, Sampler, Source, SourceExtras
from fluxflow_registry.engine.data.batches import Batch, epoch_batches, to_device
from fluxflow_registry.engine.data.declared import Declared
from fluxflow_registry.engine.data.order import views_of
from fluxflow_registry.engine.graph.calls import PASSED_THROUGH
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.engine.models.build import Average, require_gradients
from fluxflow_registry.engine.training.component_state import Guard, served_by, stateful_of
from fluxflow_registry.engine.training.metrics import StepMetrics
from fluxflow_registry.engine.training.update import LiveUpdate, autocast_of
from fluxflow_registry.errors import DataError, FluxflowError, Problem, TrainingError, counted, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.recipe.schema import StepSettings
from fluxflow_registry.registry.signature import raised_at


# More than a dozen members: the data, the models, the updates and what is counted meet here.
class LiveStep:
    """A step with everything ready for training."""

    def __init__(
        self,
        plan: StepPlan,
        source: Source,
        models: Mapping[str, nn.Module],
        seed: int,
        device: torch.device,
        sampler: Sampler | None = None,
    ) -> None:
        self.plan = plan
        self.source = source
        self._declared = Declared(plan.settings.dataset, plan.fields)
        self.models = models
        self.seed = seed
        for name, model in models.items():
            require_gradients(model, name in plan.trains)
        self.train_mode()
        autocast = autocast_of(device, plan.settings.precision)
        self.values = Values(plan.values, models, Draws(device), plan.detached, autocast)
        #: The engine's own values of a batch in its usual form.
        self.context = {"image_size": plan.image_size, "sampler": sampler}
        self.updates = [LiveUpdate(plan, update, self.values, models) for update in plan.updates.values()]
        ema = plan.settings.ema
        self.averages = {name: Average(models[name], ema.decay, ema.warmup) for name in ema.models} if ema else {}
        self.metrics = self._metrics_before = StepMetrics()
        self.components = stateful_of(plan)
        trained = {name: models[name] for name in plan.trains}
        serving = [(served_by(name), instance) for name, instance in self.components.items()]
        weighers = [(update.name, update.weights.weigher) for update in self.updates]
        self._guard = Guard(trained, [*serving, *weighers])
        #: The samples of the batches whose gradients are averaged.
        self.samples: list[int] = []
        #: For each evaluation, at which batch of the step it was measured last.
        self.measured: dict[str, int] = {}
        #: How often the step was rolled back to its last good state.
        self.rollbacks = 0
        #: Why the step is over, once it is.
        self.ending: Ending | None = None
        self._buffers_before = {
            name: [buffer.clone() for buffer in model.buffers()]
            for name, model in models.items()
            if name not in plan.trains
        }

    @property
    def settings(self) -> StepSettings:
        """The plain settings of the step."""
        return self.plan.settings

    @property
    def frozen(self) -> list[tuple[str, str]]:
        """The parts of the state that have not changed since the step began: models that nothing trains.

        A model whose buffers have changed all the same, for example because it counts its calls, is not among them.
        """
        before = self._buffers_before.items()
        return [("model", name) for name, buffers in before if _same(list(self.models[name].buffers()), buffers)]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Evaluate or sample without a trace: buffers and what components keep are restored afterwards."""
        values = [provider.instance for provider in self.plan.providers.values()]
        keeping = {id(instance): (None, instance) for instance in (*values, *self.components.values())}
        guard = Guard(self.evaluation_models(), keeping.values())
        guard.remember()
        try:
            yield
        finally:
            guard.undo(())
            self.train_mode()

    def train_mode(self) -> None:
        """Trained models in training mode, the others in evaluation mode."""
        for name, model in self.models.items():
            model.train(name in self.plan.trains)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        size, workers = self.settings.batch_size, self.settings.workers
        place = (self.seed, self.plan.name, self.settings.dataset, epoch)
        return epoch_batches(self.source, size, self.plan.batches, start, workers, place, self._declared)

    def closes_window(self, batch: int) -> bool:
        """Whether optimizers step after batch number `batch` of the epoch."""
        return (batch + 1) % self.plan.accumulate == 0 or batch + 1 == self.plan.batches

    def window(self, batch: int) -> int:
        """Batches in the window of batch number `batch`: an epoch's last one may be shorter."""
        start = batch - batch % self.plan.accumulate
        return min(self.plan.accumulate, self.plan.batches - start)

    def undo_open_window(self, position: Position) -> Position:
        """Undo the batches whose gradients still wait for the optimizer; returns the position before them."""
        number = position.batch % self.plan.accumulate if position.batch < self.plan.batches else 0
        if not number:
            return position
        self._guard.undo([update.name for update in self.updates])
        self.metrics = self._metrics_before
        return position.before_batches(number)

    def run(self, batch: Batch, position: Position) -> None:
        """Train on one batch: each update in turn, then the averages."""
        closing, window = self.closes_window(position.batch), self.window(position.batch)
        if position.batch % self.plan.accumulate == 0:
            self._guard.remember()
            if self.plan.accumulate > 1:
                self._metrics_before = copy(self.metrics)
            self.samples = []
        self.samples.extend(batch.indices)
        self._begin(batch, position.step_batch)
        metrics: dict[str, Any] = {}
        for update in self.updates:
            metrics.update(update.run(position.step_batch, closing, window))
        if closing:
            self._close(position.step_batch)
        self.metrics.add(metrics)

    def _begin(self, batch: Batch, step_batch: int) -> None:
        """Hand the batch to the values, in the form of its view."""
        self.values.draws.at(self.seed, self.plan.name, step_batch)
        fields = to_device(batch.fields, self.values.draws.device)
        if views_of(self.source) > 1:
            fields = self._view(fields, batch.view)
            self._declared.check(fields, len(batch.indices), self.source, "view")
        size = size_of(fields) or self.plan.image_size
        self.values.begin(fields, step_batch=step_batch, **{**self.context, "image_size": size})
        started = [update.plan.trains for update in self.updates if update.starts.started(step_batch)]
        self.values.idle = self.plan.trains.difference(*started)

    def _view(self, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The fields of a batch in form `number`, as the source shows them."""
        dataset = self.settings.dataset
        try:
            return dict(SourceExtras.of(self.source).view(fields, number))
        except PASSED_THROUGH:
            raise
        except Exception as error:
            message = f"dataset `{dataset}` failed to return view {number} of a batch: {one_line(error)}"
            raise DataError(message, None, raised_at(error), code="component-failed", subject=dataset) from error

    def _close(self, step_batch: int) -> None:
        """At a window's end: undo the side effects of skipped updates, and average the models of the others."""
        skipped = [update for update in self.updates if update.outcome in ("skipped", "overflowed")]
        if skipped:
            self._guard.undo([update.name for update in skipped])
        left_out = {model for update in skipped for model in update.plan.trains}
        for name, average in self.averages.items():
            if name not in left_out:
                firsts = [update.starts.first for update in self.updates if name in update.plan.trains]
                average.update(step_batch - min([step_batch, *firsts]))

    def evaluation_models(self) -> dict[str, nn.Module]:
        """The models with averaged weights in place of those that are averaged."""
        return {**self.models, **{name: average.module for name, average in self.averages.items()}}

    def adopt_averages(self) -> None:
        """At the step's end the averaged weights become the weights."""
        for name, average in self.averages.items():
            self.models[name].load_state_dict(average.module.state_dict())

    def check_ending(self, epoch: int) -> None:
        """After an epoch, and only then: find out whether the step is over."""
        until, limit = self.plan.until, counted(epoch, "epoch")
        self.ending = self._ending_by(until, epoch) if until is not None else None
        if self.ending is None and epoch >= self.plan.epochs:
            without = "" if until is None else f" without an end by transition `{until.name}`"
            self.ending = Ending(limit + without, limit=until is not None)

    def start_due(self, epoch: int, step_batch: int) -> list[str]:
        """After an epoch: start what waits for a condition that is met now; returns warnings."""
        warnings = []
        for update in self.updates:
            for name in update.starts.waiting():
                ending = self._ending_by(update.starts.conditions[name], epoch)
                if ending is not None:
                    update.meet(name, step_batch)
                if ending is not None and ending.limit:
                    warnings.append(f"{update.plan.title(name)} starts because it reached its limit: {ending.reason}")
        return warnings

    def _ending_by(self, transition: ConfiguredComponent, epoch: int) -> Ending | None:
        """What a transition returns after an epoch."""
        return ending_by(transition, epoch, self.settings.epochs, self.metrics.history)

    def is_finite(self, update: LiveUpdate, batch: Batch, step_batch: int) -> bool:
        """Whether the losses of an update and their gradients are finite on a batch; changes nothing."""
        self._guard.remember()
        self._begin(batch, step_batch)
        finite = update.is_finite(step_batch)
        self._guard.undo([update.name])
        return finite

    @property
    def skipping(self) -> bool:
        """Whether the latest batches are being skipped."""
        return any(update.skipped_in_a_row for update in self.updates)

    def state(self) -> dict[str, dict[str, Any]]:
        """The state of the step by section, for the checkpoint."""
        return {
            "update": {update.name: update.state() for update in self.updates},
            "ema": {name: average.module.state_dict() for name, average in self.averages.items()},
            "component": {name: instance.state_dict() for name, instance in self.components.items()},
            "tally": {
                "metrics": self.metrics.state_dict(),
                "rollbacks": self.rollbacks,
                "verdict": asdict(self.ending) if self.ending else None,
            },
        }

    def load(self, state: Mapping[str, Mapping[str, Any]], at: Position | None = None) -> None:
        """Restore the state; `at`: where a run resumes, perhaps with a dataset of another size."""
        for update in self.updates:
            update.load(state["update"][update.name], at)
        self._load_moving(state)
        self.metrics.load_state_dict(state["tally"]["metrics"])
        self.rollbacks = state["tally"]["rollbacks"]
        ending = state["tally"]["verdict"]
        self.ending = Ending(**ending) if ending else None
        self._guard.remember()

    def roll_back(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore everything that training moves, but no counter: those continue."""
        for update in self.updates:
            update.load_moving(state["update"][update.name])
            update.skipped_in_a_row = 0
        self._load_moving(state)
        self.rollbacks += 1

    def _load_moving(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        for name, average in self.averages.items():
            average.module.load_state_dict(state["ema"][name])
        for name, instance in self.components.items():
            instance.load_state_dict(state["component"][name])


def ending_by(transition: ConfiguredComponent, epoch: int, epochs: int, history: History) -> Ending | None:
    """What a transition returns after an epoch; raises TrainingError for anything but an Ending or None."""
    arguments = {"epoch": epoch, "epochs": epochs, "history": history}
    notes = (("defined in", str(transition.component.where)),)
    try:
        ending = transition.instance(**{name: arguments[name] for name in transition.component.signature.needs})
    except FluxflowError:
        raise
    except Exception as error:
        message = f"transition `{transition.name}` failed after epoch {epoch}: {one_line(error)}"
        raise TrainingError(Problem(message, transition.where, notes, code="component-failed")) from error
    if ending is None or isinstance(ending, Ending):
        return ending
    returned = type(ending).__name__
    message = f"transition `{transition.name}` returned a {returned} after epoch {epoch}; return an Ending or None"
    raise TrainingError(Problem(message, transition.where, notes, code="wrong-return"))


def size_of(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the images in a batch; None where it has none."""
    image = fields.get("image")
    return (image.shape[-2], image.shape[-1]) if isinstance(image, Tensor) and image.ndim > 1 else None


def _same(now: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    return len(now) == len(before) and all(map(torch.equal, now, before))
