"""The logged metrics of a run, read from its JSON lines."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import Factory, define

#: How the names of the files begin and end; a run of FluxFlow without steps has `training_metrics.jsonl`.
PREFIX, ENDING = "training_metrics", ".jsonl"

#: The series of seconds per batch.
BATCH_SECONDS = "seconds_per_batch"


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
    last_epoch: int = 0
    #: Lines that cannot be read.
    unreadable: int = 0


def read_run(folder: Path) -> list[StepLog]:
    """The logs of all steps of a run that have any, in the order of their batches."""
    graph = folder / "graph" if (folder / "graph").is_dir() else folder
    logs = [read_log(path) for path in sorted(graph.glob(f"{PREFIX}*{ENDING}")) if path.is_file()]
    return sorted((log for log in logs if not math.isnan(log.first)), key=lambda log: (log.first, log.last))


def read_log(path: Path) -> StepLog:
    """The log of one step; a line that a crash has truncated is skipped and counted."""
    log = StepLog(path.name[len(PREFIX) : -len(ENDING)].strip("_") or "training")
    session, when, before = None, None, 0.0
    for facts in _lines(path, log):
        at = _number(facts.get("global_step"))
        at = before + 1 if math.isnan(at) else at
        now = _time(facts.get("timestamp"))
        resumed = _number(facts.get("resumed_after"))
        if not math.isnan(resumed) or (session is not None and facts.get("session_id") != session):
            # FluxFlow does not record where a run resumed: the last line before is all that is known.
            log.resumed.append(before if math.isnan(resumed) else resumed)
            when = None
        _record(log, facts, at)
        if when is not None and now is not None and now >= when:
            log.seconds += now - when
            if at > before and not {BATCH_SECONDS, "evaluation", "epoch_summary"} & facts.keys():
                log.batch_times.add(at, (now - when) / (at - before))
        session, when, before = facts.get("session_id", session), now, at
    return log


def _lines(path: Path, log: StepLog) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as stream:
        for line in stream:
            try:
                facts = json.loads(line)
            except ValueError:
                facts = None
            if isinstance(facts, dict):
                yield facts
            elif line.strip():
                log.unreadable += 1


def _record(log: StepLog, facts: Mapping[str, Any], at: float) -> None:
    log.first = at if math.isnan(log.first) else min(log.first, at)
    log.last = at if math.isnan(log.last) else max(log.last, at)
    epoch = _number(facts.get("epoch"))
    if not math.isnan(epoch):
        log.last_epoch = max(log.last_epoch, int(epoch))
    metrics = _mapping(facts.get("metrics"))
    if "evaluation" in facts:
        for name, value in metrics.items():
            log.evaluations.setdefault(f"{facts['evaluation']}/{name}", Series()).add(at, _number(value))
        return
    for name, value in metrics.items():
        log.metrics.setdefault(str(name), Series()).add(at, _number(value))
    if BATCH_SECONDS in facts and not math.isnan(_number(facts[BATCH_SECONDS])):
        log.batch_times.add(at, _number(facts[BATCH_SECONDS]))
    for name, range_ in _mapping(facts.get("epoch_summary")).items():
        found = _mapping(range_)
        least, mean, most = (_number(found.get(key)) for key in ("min", "mean", "max"))
        log.epochs.setdefault(str(name), {})[int(epoch) if not math.isnan(epoch) else 0] = (least, mean, most)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _time(value: Any) -> float | None:
    """Seconds of a timestamp; None if it is not one."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
