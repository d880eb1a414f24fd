"""The logged metrics of a run, read from its JSON lines, and the panels of charts that they belong to."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, define, frozen

from fluxflow_registry import printable

from ..formatting import is_share

#: How the names of the files begin and end; a run of FluxFlow without steps has `training_metrics.jsonl`.
PREFIX, ENDING = "training_metrics", ".jsonl"

#: The series of seconds per batch, and its name in the `extras` of FluxFlow.
BATCH_SECONDS, BATCH_TIME = "seconds_per_batch", "batch_time"

#: What a line counts; a number from `MANY` on was not logged by a run.
COUNTS = ("global_step", "epoch", "resumed_after")
MANY = 1e12

#: Values from here on overflow where the range of an axis is computed: they count as infinite.
OVERFLOW = 1e300

#: What a metric measures.
Kind = Literal["loss", "kl", "weight", "rate", "norm", "batch_time", "evaluation", "other"]

#: Lines in one panel at most.
LINES = 8

#: Titles of the panels of a kind; `{}` is the update, where there is one for each.
TITLES: dict[Kind, str] = {
    "loss": "losses of {}",
    "kl": "KL divergence, nats",
    "weight": "weights of losses",
    "rate": "learning rates",
    "norm": "gradient norms",
    "batch_time": "seconds per batch",
    "evaluation": "evaluations: {}",
    "other": "other metrics",
}


@define
class Series:
    """One metric over the batches of the run; NaN where it was not finite."""

    at: array[float] = Factory(lambda: array("d"))
    values: array[float] = Factory(lambda: array("d"))

    def add(self, at: float, value: float) -> None:
        """Add a value; it replaces those that were logged at the same batch or at later ones."""
        while self.at and self.at[-1] >= at:
            self.at.pop()
            self.values.pop()
        self.at.append(at)
        self.values.append(value)

    def finite(self) -> list[float]:
        """The finite values."""
        return [value for value in self.values if math.isfinite(value)]


# More than a dozen members: all that a file of metrics has, and the state of reading it.
@define
class StepLog:
    """Everything that one step has logged."""

    name: str
    metrics: dict[str, Series] = Factory(dict)
    evaluations: dict[str, Series] = Factory(dict)
    batch_times: Series = Factory(Series)
    #: For each metric and epoch: min, mean, max.
    epochs: dict[str, dict[int, tuple[float, float, float]]] = Factory(dict)
    #: Batches of the run after which a session resumed the step.
    resumed: list[float] = Factory(list)
    first: float = math.nan
    last: float = math.nan
    seconds: float = 0.0
    #: Epochs, and whether they are counted from 0, as FluxFlow does.
    epoch_count: int = 0
    from_zero: bool = False
    #: The first timestamp, in seconds.
    started: float = math.inf
    #: Lines that cannot be read.
    unreadable: int = 0


def read_run(folder: Path) -> list[StepLog]:
    """The logs of all steps of a run that have any, in their order."""
    graph = folder / "graph" if (folder / "graph").is_dir() else folder
    logs = [read_log(path) for path in sorted(graph.glob(f"{PREFIX}*{ENDING}")) if path.is_file()]
    # By time where batches do not tell: FluxFlow may count them from 0 in every step.
    return sorted(
        (log for log in logs if not math.isnan(log.first)), key=lambda log: (log.started, log.first, log.last)
    )


def read_log(path: Path) -> StepLog:
    """The log of one step; a line that a crash has truncated is skipped and counted."""
    log = StepLog(path.name[len(PREFIX) : -len(ENDING)].strip("_") or "training")
    session, when, before = None, None, 0.0
    for facts in _lines(path, log):
        at = _number(facts.get("global_step"))
        at = before + 1 if math.isnan(at) else at
        now = _time(facts.get("timestamp"))
        log.started = min(log.started, now if now is not None else math.inf)
        resumed = _number(facts.get("resumed_after"))
        if not math.isnan(resumed) or (session is not None and facts.get("session_id") != session):
            # FluxFlow does not record where a run resumed: the last line before is all that is known.
            log.resumed.append(before if math.isnan(resumed) else resumed)
            when = None
        _record(log, facts, at)
        if when is not None and now is not None and now >= when:
            log.seconds += now - when
            timed = BATCH_SECONDS in facts or BATCH_TIME in _mapping(facts.get("extras"))
            if at > before and not timed and not {"evaluation", "epoch_summary"} & facts.keys():
                log.batch_times.add(at, (now - when) / (at - before))
        session, when, before = facts.get("session_id", session), now, at
    return log


def _lines(path: Path, log: StepLog) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as stream:
        for line in stream:
            try:
                facts = json.loads(line)
            except (ValueError, RecursionError):
                facts = None
            if isinstance(facts, dict) and all(_plausible(facts.get(key)) for key in COUNTS):
                yield facts
            elif line.strip():
                log.unreadable += 1


def _record(log: StepLog, facts: Mapping[str, Any], at: float) -> None:
    log.first = at if math.isnan(log.first) else min(log.first, at)
    log.last = at if math.isnan(log.last) else max(log.last, at)
    epoch = _number(facts.get("epoch"))
    if not math.isnan(epoch):
        log.from_zero = log.from_zero or epoch == 0
        log.epoch_count = max(log.epoch_count, int(epoch) + log.from_zero)
    metrics = _mapping(facts.get("metrics"))
    if "evaluation" in facts:
        for name, value in metrics.items():
            key = printable(f"{facts['evaluation']}/{name}")
            log.evaluations.setdefault(key, Series()).add(at, _number(value))
        return
    # The line of an epoch repeats means of batches that were logged.
    for name, value in metrics.items() if "epoch_summary" not in facts else ():
        log.metrics.setdefault(printable(name), Series()).add(at, _number(value))
    for name, value in _mapping(facts.get("learning_rates")).items():
        label = printable(name if kind_of(name) == "rate" else f"lr_{name}")
        log.metrics.setdefault(label, Series()).add(at, _number(value))
    for name, value in _mapping(facts.get("extras")).items():
        if not math.isnan(_number(value)):
            series = log.batch_times if name == BATCH_TIME else log.metrics.setdefault(printable(name), Series())
            series.add(at, _number(value))
    if BATCH_SECONDS in facts and not math.isnan(_number(facts[BATCH_SECONDS])):
        log.batch_times.add(at, _number(facts[BATCH_SECONDS]))
    for name, range_ in _mapping(facts.get("epoch_summary")).items():
        found = _mapping(range_)
        least, mean, most = (_number(found.get(key)) for key in ("min", "mean", "max"))
        log.epochs.setdefault(printable(name), {})[int(epoch) if not math.isnan(epoch) else 0] = (least, mean, most)


def _plausible(count: Any) -> bool:
    """Whether a count, which may be missing, is one that a run can reach."""
    return count is None or (isinstance(count, (int, float)) and 0 <= count < MANY)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value) if abs(value) < OVERFLOW else math.nan
    except OverflowError:
        return math.nan


def _time(value: Any) -> float | None:
    """Seconds of a timestamp; None if it is not one."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


@frozen(eq=False)
class Line:
    """One metric over all steps that have logged it, a stretch for each step."""

    name: str
    stretches: Sequence[Series]

    @property
    def values(self) -> list[float]:
        """All its finite values."""
        return [value for series in self.stretches for value in series.finite()]


@define
class Panel:
    """Metrics that are read together."""

    title: str
    kind: Kind
    lines: list[Line] = Factory(list)


def kind_of(metric: str) -> Kind:
    """What a metric measures, by its name: ours (`vae/kl`, `vae/lr`) or FluxFlow's (`kl_loss`, `lr_vae`)."""
    label = metric.partition("/")[2]
    last = metric.rpartition("/")[2]
    if last == "lr" or metric.startswith("lr_") or metric.endswith("_lr") or metric == "learning_rate":
        return "rate"
    if (last == "weight" and "/" in label) or metric in ("kl_beta", "beta"):
        return "weight"
    if metric.endswith("grad_norm"):
        return "norm"
    if last in ("kl", "kl_loss") or label.endswith("_kl"):
        return "kl"
    return "loss" if metric.endswith("_loss") or label else "other"


def panels_of(logs: Sequence[StepLog]) -> list[Panel]:
    """All panels of a run: each logged series is in exactly one."""
    found: dict[tuple[Kind, str], Panel] = {}

    def put(kind: Kind, group: str, name: str, stretches: Iterable[Series]) -> None:
        title = TITLES[kind].format(group) if group or kind != "loss" else "losses"
        found.setdefault((kind, title), Panel(title, kind)).lines.append(Line(name, list(stretches)))

    updates = {name.partition("/")[0] for log in logs for name in log.metrics if "/" in name}
    for name in _names(log.metrics for log in logs):
        update = name.partition("/")[0].removesuffix("_loss")
        stretches = (log.metrics[name] for log in logs if name in log.metrics)
        put(kind_of(name), update if update in updates else "", name, stretches)
    for name in _names(log.evaluations for log in logs):
        stretches = (log.evaluations[name] for log in logs if name in log.evaluations)
        metric = name.partition("/")[2]
        put("evaluation", "shares" if is_share(metric) else metric, name, stretches)
    if any(log.batch_times.at for log in logs):
        put("batch_time", "", BATCH_SECONDS, (log.batch_times for log in logs if log.batch_times.at))
    order = list(TITLES)
    return [part for key in sorted(found, key=lambda key: order.index(key[0])) for part in _divided(found[key])]


def _names(mappings: Iterable[Iterable[str]]) -> list[str]:
    """All names, in the order in which they appear; totals before losses."""
    names = list(dict.fromkeys(name for mapping in mappings for name in mapping))
    return sorted(names, key=lambda name: not name.endswith("_loss") or "/" in name)


def _divided(panel: Panel) -> list[Panel]:
    """A panel with more lines than a reader can distinguish, as several."""
    parts = [panel.lines[start : start + LINES] for start in range(0, len(panel.lines), LINES)]
    if len(parts) == 1:
        return [panel]
    return [Panel(f"{panel.title} ({n} of {len(parts)})", panel.kind, lines) for n, lines in enumerate(parts, 1)]
