"""A step that is being trained: data, turns, averages, metrics, and the state they keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from attrs import asdict, frozen
from torch import Tensor, nn

from fluxflow_registry.check.checker import CheckedStep, ConfiguredComponent
from fluxflow_registry.contracts import Ending, Position, Source
from fluxflow_registry.engine.data.batches import Batch, epoch_batches, to_device
from fluxflow_registry.engine.data.order import batches_per_epoch, views_of
from fluxflow_registry.engine.graph.randomness import Draws
from fluxflow_registry.engine.graph.values import Values
from fluxflow_registry.engine.models.averaging import Average
from fluxflow_registry.engine.models.frozen import require_gradients
from fluxflow_registry.engine.training.component_state import Guard, served_by, stateful_of
from fluxflow_registry.engine.training.late_start import Extent
from fluxflow_registry.engine.training.metrics import StepMetrics
from fluxflow_registry.engine.training.update import LiveUpdate, autocast_of
from fluxflow_registry.errors import FluxflowError, Problem, TrainingError, counted, one_line
from fluxflow_registry.plan.checked import called


@frozen(eq=False)
class StepFacts:
    """What observers may know of a step before and while it is trained; `epochs` is the most there can be.

    `batches` counts each view of a batch of the dataset.
    """

    name: str
    index: int
    epochs: int
    batches: int
    trains: frozenset[str]
    checked: CheckedStep

    @property
    def parent(self) -> str | None:
        """The step from whose end it starts."""
        return self.checked.parent

    @property
    def accumulate(self) -> int:
        """Batches whose gradients are averaged."""
        return self.checked.step.settings.accumulate


def facts_of(checked: CheckedStep, source: Source) -> StepFacts:
    """The facts of a step; raises DataError where its dataset does not fill a batch."""
    settings = checked.step.settings
    batches = batches_per_epoch(
        source, settings.dataset, settings.batch_size, settings.max_steps, checked.step.node.at("dataset")
    )
    limit = getattr(checked.until.instance, "max_epochs", None) if checked.until else None
    epochs = limit if limit is not None else settings.epochs
    return StepFacts(checked.name, checked.index, epochs, batches, checked.plan.trains, checked)


class LiveStep:
    """A step with everything ready: its turns take each batch in the recipe's order."""

    def __init__(
        self,
        facts: StepFacts,
        source: Source,
        models: Mapping[str, nn.Module],
        seed: int,
        device: torch.device,
        sampler: Any = None,
    ) -> None:
        checked = facts.checked
        self.facts = facts
        self.checked = checked
        self.settings = checked.step.settings
        self.source = source
        self.models = models
        self.seed = seed
        self.device = device
        self.sampler = sampler
        #: For each evaluation, at which batch of the step it was measured last.
        self.measured: dict[str, int] = {}
        for name, model in models.items():
            require_gradients(model, name in facts.trains)
        self.train_mode()
        self.draws = Draws(device)
        self.autocast = autocast_of(device, self.settings.precision)
        plan = checked.plan
        self.values = Values(plan.values, checked.providers, models, self.draws, plan.splits, self.autocast)
        extent = Extent(facts.epochs, facts.batches, self.settings.accumulate)
        self.turns = [
            LiveUpdate(update, plan, self.values, models, self.settings.precision, extent)
            for update in checked.updates.values()
        ]
        ema = self.settings.ema
        self.averages = {name: Average(models[name], ema.decay, ema.warmup) for name in ema.models} if ema else {}
        self.tally = StepMetrics()
        self.stateful = stateful_of(checked)
        trained = {name: models[name] for name in facts.trains}
        serving = [(served_by(name), instance) for name, instance in self.stateful.items()]
        self.guard = Guard(trained, [*serving, *((turn.name, turn.weigher) for turn in self.turns)])
        #: The samples of the batches whose gradients are averaged.
        self.samples: list[int] = []
        #: How often the step was put back to its last good state.
        self.rollbacks = 0
        #: Why the step is over, once it is.
        self.verdict: Ending | None = None
        self._untrained = {
            name: [buffer.clone() for buffer in model.buffers()]
            for name, model in models.items()
            if name not in facts.trains
        }

    @property
    def frozen(self) -> list[tuple[str, str]]:
        """The parts of the state that are what they were when the step began: models that nothing trains.

        One whose buffers have moved nevertheless, because it counts its calls for one, is none of them.
        """
        return [("model", name) for name, before in self._untrained.items() if _same(self.models[name], before)]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Measure or draw without a trace: buffers and what components keep are put back afterwards."""
        values = [provider.instance for provider in self.checked.providers.values()]
        keeping = {id(instance): (None, instance) for instance in (*values, *self.stateful.values())}
        guard = Guard(self.evaluation_models(), keeping.values())
        guard.remember()
        try:
            yield
        finally:
            guard.undo(())
            self.train_mode()

    @cached_property
    def context(self) -> dict[str, Any]:
        """The engine's own values of a batch in its usual form."""
        image = self.checked.fields.get("image")
        size = tuple(image.shape[-2:]) if image is not None and image.shape else None
        return {"image_size": size, "sampler": self.sampler}

    def shown(self, batch: Batch) -> dict[str, Any]:
        """The fields of a batch on the step's device, in the form that its view is."""
        fields = to_device(batch.fields, self.device)
        if views_of(self.source) == 1:
            return fields
        return dict(self.source.view(fields, batch.view))  # type: ignore[attr-defined]

    def train_mode(self) -> None:
        """Trained models in training mode, the others in evaluation mode."""
        for name, model in self.models.items():
            model.train(name in self.facts.trains)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        settings = self.settings
        place = (self.seed, self.facts.name, settings.dataset, epoch)
        return epoch_batches(self.source, settings.batch_size, self.facts.batches, start, settings.workers, place)

    def closes_window(self, batch: int) -> bool:
        """Whether optimizers step after batch number `batch` of the epoch."""
        return (batch + 1) % self.settings.accumulate == 0 or batch + 1 == self.facts.batches

    def window(self, batch: int) -> int:
        """Batches in the window of batch number `batch`: an epoch's last one may be shorter."""
        start = batch - batch % self.settings.accumulate
        return min(self.settings.accumulate, self.facts.batches - start)

    def take(self, batch: Batch, position: Position) -> None:
        """Train on one batch: each update in turn, then the averages."""
        closing = self.closes_window(position.batch)
        if position.batch % self.settings.accumulate == 0:
            self.guard.remember()
            self.samples = []
        self.samples.extend(batch.indices)
        self.draws.at(self.seed, self.facts.name, position.step_batch)
        fields = self.shown(batch)
        own = {"image_size": size_of(fields) or self.context["image_size"]}
        self.values.begin(fields, step_batch=position.step_batch, **self.context | own)
        awake = [turn.plan.trains for turn in self.turns if turn.starts.started(position.step_batch)]
        self.values.asleep = self.facts.trains.difference(*awake)
        metrics: dict[str, Any] = {}
        for turn in self.turns:
            metrics.update(turn.take(position.step_batch, closing, self.window(position.batch)))
        if closing:
            left_out = [turn for turn in self.turns if turn.outcome == "skipped"]
            skipped = {model for turn in left_out for model in turn.plan.trains}
            if left_out:
                self.guard.undo([turn.name for turn in left_out])
            for name, average in self.averages.items():
                if name not in skipped:
                    average.update(max(position.step_batch - self._first(name, position.step_batch), 0))
        self.tally.add(metrics)

    def _first(self, model: str, step_batch: int) -> int:
        """The first batch on which an update that trains the model had its turn; `step_batch` while there is none."""
        firsts = [turn.starts.first for turn in self.turns if model in turn.plan.trains]
        return min([step_batch, *(first for first in firsts if first is not None)])

    def evaluation_models(self) -> dict[str, nn.Module]:
        """The models with averaged weights in place of those that are averaged."""
        return {**self.models, **{name: average.module for name, average in self.averages.items()}}

    def adopt_averages(self) -> None:
        """At the step's end the averaged weights become the weights."""
        for name, average in self.averages.items():
            average.adopt(self.models[name])

    def judge(self, epoch: int) -> None:
        """After an epoch, the only time that it is asked: whether the step is over."""
        until = self.checked.until
        if until is None:
            self.verdict = Ending(counted(epoch, "epoch")) if epoch >= self.settings.epochs else None
        else:
            self.verdict = self._asked(until, epoch)

    def start_due(self, epoch: int, step_batch: int) -> list[str]:
        """After an epoch: start what waits for a condition that holds now; gives what to warn of."""
        told = []
        for turn in self.turns:
            for name in turn.starts.waiting():
                ending = self._asked(turn.starts.conditions[name], epoch)
                if ending is not None:
                    turn.starts.meet(name, step_batch)
                    turn.schedule()
                if ending is not None and ending.limit:
                    told.append(f"{called(turn.name, name)} starts by its limit: {ending.reason}")
        return told

    def _asked(self, transition: ConfiguredComponent, epoch: int) -> Ending | None:
        """What a transition says after an epoch."""
        offered = {"epoch": epoch, "epochs": self.settings.epochs, "history": self.tally.history}
        try:
            said = transition.instance(**{name: offered[name] for name in transition.component.signature.needs})
        except FluxflowError:
            raise
        except Exception as error:
            message = f"transition `{transition.component.name}` failed after epoch {epoch}: {one_line(error)}"
            notes = (("defined in", str(transition.component.where)),)
            raise TrainingError(Problem(message, transition.where, notes)) from error
        if said is None or isinstance(said, Ending):
            return said
        message = f"transition `{transition.component.name}` gives a {type(said).__name__} after epoch {epoch}"
        needed = ("needed", "an Ending, or None to go on")
        raise TrainingError(
            Problem(message, transition.where, (needed, ("defined in", str(transition.component.where))))
        )

    @property
    def skipping(self) -> bool:
        """Whether the latest batches are being left out."""
        return any(turn.skipped_in_a_row for turn in self.turns)

    def state(self) -> dict[str, dict[str, Any]]:
        """The state of the step by section, for the checkpoint."""
        return {
            "update": {turn.name: turn.state() for turn in self.turns},
            "ema": {name: average.state_dict() for name, average in self.averages.items()},
            "component": {name: instance.state_dict() for name, instance in self.stateful.items()},
            "tally": {
                "metrics": self.tally.state_dict(),
                "rollbacks": self.rollbacks,
                "verdict": asdict(self.verdict) if self.verdict else None,
            },
        }

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the state back."""
        for turn in self.turns:
            turn.load(state["update"][turn.name])
        self._load_moving(state)
        self.tally.load_state_dict(state["tally"]["metrics"])
        self.rollbacks = state["tally"]["rollbacks"]
        verdict = state["tally"]["verdict"]
        self.verdict = Ending(**verdict) if verdict else None

    def roll_back(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take back everything that training moves, but not what is counted: that goes on."""
        for turn in self.turns:
            turn.load_parts(state["update"][turn.name])
            turn.skipped_in_a_row = 0
        self._load_moving(state)
        self.rollbacks += 1

    def _load_moving(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        for name, average in self.averages.items():
            average.load_state_dict(state["ema"][name])
        for name, instance in self.stateful.items():
            instance.load_state_dict(state["component"][name])


def size_of(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the pictures in a batch; None where it has none."""
    image = fields.get("image")
    return (image.shape[-2], image.shape[-1]) if isinstance(image, Tensor) and image.ndim > 1 else None


def _same(model: nn.Module, buffers: Sequence[Tensor]) -> bool:
    now = list(model.buffers())
    return len(now) == len(buffers) and all(map(torch.equal, now, buffers))
