"""Which metric is in which panel: every logged series is in exactly one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import Factory, define, frozen

from ..formatting import is_share
from .metrics_log import BATCH_SECONDS, Series, StepLog

#: What a metric measures.
Kind = Literal["loss", "kl", "weight", "rate", "norm", "batch_time", "evaluation", "other"]

#: Lines in one panel at most.
LINES = 8


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
