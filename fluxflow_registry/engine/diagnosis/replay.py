"""A batch that was not finite, repeated: reached as a resumed run reaches it, and looked at on the way."""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from fluxflow_registry.contracts import Position, Source
from fluxflow_registry.engine.data.batches import Batch
from fluxflow_registry.engine.diagnosis.bundle import CHECKPOINTS, Bundle
from fluxflow_registry.engine.graph.tensors import map_tensors
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.engine.run.loop import train_steps
from fluxflow_registry.engine.run.resume import find_position
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.not_finite import Evidence, evidence_of, not_finite
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.engine.training.update import LiveUpdate
from fluxflow_registry.errors import Problem, RunError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import checkpoints

#: Where torch and the framework are: what a component's author looks for lies in neither.
_ELSEWHERE = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))

_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)\n    (?P<code>.+)\n')


@frozen
class Anomaly:
    """What torch's anomaly detection says: the backward function, and the lines of its forward call."""

    message: str
    lines: tuple[tuple[str, str], ...]


@frozen
class First:
    """The first in the order of computing that is not finite: what, where it is defined, its statistics."""

    kind: str
    name: str
    where: str
    statistics: Mapping[str, Any]
    #: Of a field, the samples in which it is not finite.
    samples: tuple[int, ...] = ()


@frozen
class Replayed:
    """What has become of the batch this time; `losses` are those of each batch of its window."""

    position: Position
    samples: tuple[int, ...]
    losses: tuple[Mapping[str, float], ...]
    #: Whether the update has left the batch out again.
    again: bool
    first: First | None
    anomaly: Anomaly | None


class Arrived(Exception):  # noqa: N818 - not an error: the way ends here
    """The batch is about to be trained on."""

    def __init__(self, position: Position) -> None:
        super().__init__("arrived")
        self.position = position


class Replay(Run):
    """A run that goes again where another has gone, as far as a batch, and leaves nothing behind."""

    def __init__(
        self, checked: RecipePlan, folder: RunFolder, sources: Mapping[str, Source], device: torch.device, until: int
    ) -> None:
        super().__init__(evolve(checked, observers={}), folder, sources, device)
        self.until = until

    def before_batch(self, position: Position) -> None:
        """End the way where the batch is."""
        if position.run_batch == self.until:
            raise Arrived(position)


def replay(bundle: Bundle, checked: RecipePlan, sources: Mapping[str, Source], device: torch.device) -> Replayed:
    """Repeat the batch of a bundle; raises RunError where it is not reached."""
    with tempfile.TemporaryDirectory(prefix="fluxflow-replay-") as made:
        run = Replay(checked, _linked(bundle, Path(made)), sources, device, bundle.run_batch)
        position = _go(run)
        live = run.live
        update = next((turn for turn in live.updates if turn.name == bundle.update), None) if live else None
        if position is None or live is None or update is None or live.plan.name != bundle.step:
            message = f"update `{bundle.update}` of step `{bundle.step}` is not reached by this recipe and these data"
            raise RunError(Problem(message, str(bundle.folder)))
        return _repeated(run, live, update, position)


def _linked(bundle: Bundle, folder: Path) -> RunFolder:
    """A run's folder that holds the checkpoints of a bundle by other names."""
    made = RunFolder(folder, "", temporary=True)
    made.checkpoints.mkdir()
    for found in checkpoints.listing(bundle.folder / CHECKPOINTS):
        (made.checkpoints / found.folder.name).symlink_to(found.folder.resolve())
    return made


def _go(run: Replay) -> Position | None:
    """Train as far as the batch; None where it never comes."""
    position, state = find_position(run)
    try:
        train_steps(run, position, state)
    except Arrived as arrived:
        return arrived.position
    return None


def _repeated(run: Run, live: LiveStep, update: LiveUpdate, position: Position) -> Replayed:
    """Take the batch, or the window that begins with it, as training does; once more where it is left out again."""
    batches = _window(live, position)
    before = map_tensors(_kept, {"models": _weights(run), "step": live.state()})
    weights = _first_weight(live)
    seen: dict[int, Evidence] = {}
    update.evidence = None
    losses: dict[str, Tensor] = {}

    def watch(kind: str, name: str, value: Any) -> None:
        whose, _, label = name.partition("/")
        if kind == "loss" and whose == update.name:
            losses[label] = value
        elif kind == "total" and name == update.name:
            seen[live.values.context["step_batch"]] = evidence_of(live.values, [dict(losses)], {})
            losses.clear()

    live.values.watch = watch
    skips = update.skips
    after = _take(live, batches, position)
    again = update.skips > skips
    first = weights or _first(run, live, update, list(seen.values()), batches) if again else None
    anomaly = None
    if again:
        for name, model in run.models.items():
            model.load_state_dict(before["models"][name])
        live.load(before["step"])
        anomaly = _anomaly(live, update, lambda: _take(live, batches, position))
    return Replayed(
        position=after,
        samples=tuple(index for batch in batches for index in batch.indices),
        losses=tuple(seen[s].losses[0] if s in seen else {} for s in range(position.step_batch, after.step_batch)),
        again=again,
        first=first,
        anomaly=anomaly,
    )


def _window(live: LiveStep, position: Position) -> list[Batch]:
    """The batches whose gradients are averaged, from the first on."""
    batches = live.batches(position.epoch, position.batch)
    return [batch for _, batch in zip(range(live.window(position.batch)), batches, strict=False)]


def _take(live: LiveStep, batches: list[Batch], position: Position) -> Position:
    """Train on batches; gives the position after them."""
    for batch in batches:
        live.run(batch, position)
        position = position.after_batch()
    return position


def _weights(run: Run) -> dict[str, Any]:
    return {name: dict(model.state_dict()) for name, model in run.models.items()}


def _kept(tensor: Tensor) -> Tensor:
    """A copy on the host, which has more room."""
    return tensor.detach().to("cpu", copy=True)


def _first_weight(live: LiveStep) -> First | None:
    """The first weight or buffer that is not finite before the batch has been taken."""
    for model, module in live.models.items():
        for key, tensor in module.state_dict().items():
            if isinstance(tensor, Tensor) and (found := not_finite(tensor)):
                return First("weight", f"{model}.{key}", "", found)
    return None


def _first(
    run: Run, live: LiveStep, update: LiveUpdate, seen: Sequence[Evidence], batches: Sequence[Batch]
) -> First | None:
    """The first field, value or loss that is not finite, or else the first gradient."""
    for evidence in seen:
        for name, found in evidence.values.items():
            binding = live.values.bindings.get(name)
            dataset = run.plan.datasets[live.settings.dataset]
            if binding is not None:
                return First("value", name, str(binding.component.component.signature.where), found)
            samples = tuple(index for batch in batches for index in _spoilt(batch, name))
            return First("field", name, str(dataset.component.where), found, samples)
        for loss in update.losses.all:
            number = evidence.losses[0].get(loss.label, 0.0)
            if not math.isfinite(number):
                return First(
                    "loss",
                    f"{update.name}/{loss.label}",
                    str(loss.plan.component.component.signature.where),
                    {"is": str(number)},
                )
    for name, found in (update.evidence.gradients if update.evidence else {}).items():
        return First("gradient", name, "", found)
    return None


def _spoilt(batch: Batch, field: str) -> list[int]:
    """The samples of a batch of which a field is not finite."""
    rows = batch.fields[field]
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        return []
    sound = torch.isfinite(rows.reshape(len(rows), -1)).all(dim=1).tolist()
    return [index for index, fine in zip(batch.indices, sound, strict=True) if not fine]


def _anomaly(live: LiveStep, update: LiveUpdate, take: Callable[[], Any]) -> Anomaly | None:
    """What torch's anomaly detection says of the walk back of one update; None where it finds nothing."""

    def watch(kind: str, name: str, _: Any) -> None:
        # Every forward is to be remembered, but only one walk back is to be searched.
        if kind == "total":
            torch.set_anomaly_enabled(True, name == update.name)

    live.values.watch = watch
    try:
        with _heard() as told, torch.autograd.set_detect_anomaly(True, check_nan=False):
            take()
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        return Anomaly(str(error).splitlines()[0], _lines("\n".join(told)))
    return None


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what is warned of instead of showing it."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield told
        finally:
            told += [str(warning.message) for warning in caught]


def _lines(told: str) -> tuple[tuple[str, str], ...]:
    """Of the traceback of a forward call the innermost lines, as (place, code), that are not torch's or ours."""
    frames = list(_FRAME.finditer(told.partition("Traceback of forward call that induced")[0]))
    for number in reversed(range(len(frames))):
        if frames[number]["file"].startswith(_ELSEWHERE[1]):
            frames = frames[number + 1 :]
            break
    ours = [frame for frame in frames if not frame["file"].startswith(_ELSEWHERE)]
    return tuple((f"{frame['file']}:{frame['line']}, in {frame['name']}", frame["code"]) for frame in ours)
