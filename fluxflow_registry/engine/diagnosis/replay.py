"""Repeating a batch that was not finite: reached as a resumed run reaches it, and examined."""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from fluxflow_registry.contracts import Position, Source
from fluxflow_registry.engine.data.batches import Batch
from fluxflow_registry.engine.diagnosis.bundle import Bundle
from fluxflow_registry.engine.graph.calls import map_tensors
from fluxflow_registry.engine.run.folder import CHECKPOINTS, RunFolder
from fluxflow_registry.engine.run.loop import train_steps
from fluxflow_registry.engine.run.resume import find_position
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.not_finite import Evidence, evidence_of, not_finite
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.engine.training.update import LiveUpdate
from fluxflow_registry.errors import RunError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import checkpoints

#: The folders of torch and of the framework: the lines that a component's author looks for are in neither.
_NOT_COMPONENTS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))

#: A frame of the traceback that torch warns of; torch offers it as text only.
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)\n    (?P<code>.+)\n')


@frozen
class Anomaly:
    """What torch's anomaly detection reports: the backward function, and the lines of its forward call."""

    message: str
    lines: tuple[tuple[str, str], ...]


@frozen
class FirstNotFinite:
    """The first tensor, in execution order, that is not finite: its kind and name, its definition, its statistics."""

    kind: str
    name: str
    where: str
    statistics: Mapping[str, Any]
    #: For a field, the samples in which it is not finite.
    samples: tuple[int, ...] = ()


@frozen
class ReplayResult:
    """The outcome of the batch this time; `losses` are those of each batch of its window."""

    position: Position
    samples: tuple[int, ...]
    losses: tuple[Mapping[str, float], ...]
    #: Whether the update skipped the batch again.
    reproduced: bool
    first: FirstNotFinite | None
    anomaly: Anomaly | None


class Reached(Exception):  # noqa: N818 - not an error: the replay ends here
    """The batch is about to be trained on."""


class ReplayRun(Run):
    """A run that repeats another as far as a batch, without observers, in a temporary folder."""

    def __init__(
        self, checked: RecipePlan, folder: RunFolder, sources: Mapping[str, Source], device: torch.device, until: int
    ) -> None:
        super().__init__(evolve(checked, observers={}), folder, sources, device)
        self.until = until
        #: The position before the batch, once it is reached.
        self.reached: Position | None = None

    def before_batch(self, position: Position) -> None:
        """Raise Reached before the batch."""
        if position.run_batch == self.until:
            self.reached = position
            raise Reached


def replay(bundle: Bundle, checked: RecipePlan, sources: Mapping[str, Source], device: torch.device) -> ReplayResult:
    """Repeat the batch of a bundle; raises RunError if it is not reached."""
    with tempfile.TemporaryDirectory(prefix="fluxflow-replay-") as folder:
        run = ReplayRun(checked, _linked(bundle, Path(folder)), sources, device, bundle.run_batch)
        with suppress(Reached):
            train_steps(run, *find_position(run))
        position, live = run.reached, run.live
        update = next((each for each in live.updates if each.name == bundle.update), None) if live else None
        if position is None or live is None or update is None or live.plan.name != bundle.step:
            message = f"this recipe with this data does not reach update `{bundle.update}` of step `{bundle.step}`"
            raise RunError(message, str(bundle.folder), code="not-reached")
        return _repeat(run, live, update, position)


def _linked(bundle: Bundle, folder: Path) -> RunFolder:
    """A run's folder with links to the checkpoints of a bundle."""
    linked = RunFolder(folder, "", temporary=True)
    linked.checkpoints.mkdir()
    for found in checkpoints.listing(bundle.folder / CHECKPOINTS):
        (linked.checkpoints / found.folder.name).symlink_to(found.folder.resolve())
    return linked


def _repeat(run: Run, live: LiveStep, update: LiveUpdate, position: Position) -> ReplayResult:
    """Train on the batch, or on the window that starts with it; once more with torch's help if it is skipped again."""
    batches = list(islice(live.batches(position.epoch, position.batch), live.window(position.batch)))
    models = {name: dict(model.state_dict()) for name, model in run.models.items()}
    before = map_tensors(_to_host, {"models": models, "step": live.state()})
    weights = _first_weight(live)
    seen: dict[int, Evidence] = {}
    update.evidence = None
    losses: dict[str, Tensor] = {}

    def watch(kind: str, name: str, value: Any) -> None:
        owner, _, label = name.partition("/")
        if kind == "loss" and owner == update.name:
            losses[label] = value
        elif kind == "total" and name == update.name:
            seen[live.values.context["step_batch"]] = evidence_of(live.values, [dict(losses)], {})
            losses.clear()

    live.values.watch = watch
    skips = update.skips
    after = _train(live, batches, position)
    reproduced = update.skips > skips
    first = weights or _first(run, live, update, list(seen.values()), batches) if reproduced else None
    anomaly = None
    if reproduced:
        for name, model in run.models.items():
            model.load_state_dict(before["models"][name])
        live.load(before["step"])
        anomaly = _anomaly(live, update, lambda: _train(live, batches, position))
    return ReplayResult(
        position=after,
        samples=tuple(index for batch in batches for index in batch.indices),
        losses=tuple(seen[s].losses[0] if s in seen else {} for s in range(position.step_batch, after.step_batch)),
        reproduced=reproduced,
        first=first,
        anomaly=anomaly,
    )


def _train(live: LiveStep, batches: list[Batch], position: Position) -> Position:
    for batch in batches:
        live.run(batch, position)
        position = position.after_batch()
    return position


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in the memory of the host: the device may have none left."""
    return tensor.detach().to("cpu", copy=True)


def _first_weight(live: LiveStep) -> FirstNotFinite | None:
    """The first weight or buffer that is not finite before the batch."""
    for model, module in live.models.items():
        for key, tensor in module.state_dict().items():
            if isinstance(tensor, Tensor) and (found := not_finite(tensor)):
                return FirstNotFinite("weight", f"{model}.{key}", "", found)
    return None


def _first(
    run: Run, live: LiveStep, update: LiveUpdate, seen: Sequence[Evidence], batches: Sequence[Batch]
) -> FirstNotFinite | None:
    """The first field, value or loss that is not finite, or else the first gradient."""
    for evidence in seen:
        for name, found in evidence.values.items():
            binding = live.values.bindings.get(name)
            dataset = run.plan.datasets[live.settings.dataset]
            if binding is not None:
                return FirstNotFinite("value", name, str(binding.component.component.signature.where), found)
            samples = tuple(index for batch in batches for index in _not_finite_samples(batch, name))
            return FirstNotFinite("field", name, str(dataset.component.where), found, samples)
        for loss in update.losses.all:
            number = evidence.losses[0].get(loss.label, 0.0)
            if not math.isfinite(number):
                where = str(loss.plan.component.component.signature.where)
                return FirstNotFinite("loss", f"{update.name}/{loss.label}", where, {"is": str(number)})
    for name, found in (update.evidence.gradients if update.evidence else {}).items():
        return FirstNotFinite("gradient", name, "", found)
    return None


def _not_finite_samples(batch: Batch, field: str) -> list[int]:
    rows = batch.fields[field]
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        return []
    finite = torch.isfinite(rows.reshape(len(rows), -1)).all(dim=1).tolist()
    return [index for index, is_finite in zip(batch.indices, finite, strict=True) if not is_finite]


def _anomaly(live: LiveStep, update: LiveUpdate, train: Callable[[], Any]) -> Anomaly | None:
    """What torch's anomaly detection finds in the backward pass of one update; None if it finds nothing."""

    def watch(kind: str, name: str, _: Any) -> None:
        # Every forward call must be recorded, but only one backward pass is checked.
        if kind == "total":
            torch.set_anomaly_enabled(True, name == update.name)

    live.values.watch = watch
    try:
        with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True, check_nan=False):
            warnings.simplefilter("always")
            train()
    except RuntimeError as error:
        if "returned nan values" not in str(error):  # torch's own error, which has no other mark
            raise
        return Anomaly(str(error).splitlines()[0], _lines("\n".join(str(warning.message) for warning in caught)))
    return None


def _lines(warning: str) -> tuple[tuple[str, str], ...]:
    """The innermost lines of the traceback of a forward call that are neither torch's nor ours, as (place, code)."""
    frames = list(_FRAME.finditer(warning.partition("Traceback of forward call that induced")[0]))
    for number in reversed(range(len(frames))):
        if frames[number]["file"].startswith(_NOT_COMPONENTS[1]):
            frames = frames[number + 1 :]
            break
    components = [frame for frame in frames if not frame["file"].startswith(_NOT_COMPONENTS)]
    return tuple((f"{frame['file']}:{frame['line']}, in {frame['name']}", frame["code"]) for frame in components)
