"""The first thing in which a resumed run differs from an uninterrupted one, and the component that causes it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import frozen

from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import WhenMet

#: (what, step, batches of the run before it) of each line of a trace, with its entries (kind, name, digest).
Lines = dict[tuple[str, str, int], list[list[str]]]


@frozen
class Difference:
    """The first thing in which two runs differ."""

    step: str
    batch: int
    #: What its line of the trace is about: a batch, a transition, an evaluation; or the final models.
    what: str
    #: Whether it is a field, a value, a loss, a part of the state, and so on; and its name among those.
    kind: str
    name: str


def read_trace(folder: Path) -> Lines:
    """The lines of a trace; of a batch that was trained several times the first one."""
    lines: Lines = {}
    for line in trace_lines(folder):
        lines.setdefault((line["what"], line["step"], line["at"]), line["entries"])
    return lines


def trace_lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of a trace, in the order of writing; one that a kill has truncated is skipped."""
    found = []
    for line in (folder / "trace.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def first_difference(reference: Path, interrupted: Path) -> Difference | None:
    """The first difference of any process of the interrupted run, or else of the finished models."""
    return _in_traces(read_trace(reference), trace_lines(interrupted)) or _in_models(reference, interrupted)


def _in_traces(reference: Lines, interrupted: list[dict[str, Any]]) -> Difference | None:
    order = {key: number for number, key in enumerate(reference)}
    found = []
    seen = set()
    for line in interrupted:
        key = (line["what"], line["step"], line["at"])
        seen.add(key)
        expected = {(kind, name): digest for kind, name, digest in reference.get(key, ())}
        actual = {(kind, name): digest for kind, name, digest in line["entries"]}
        for kind, name in dict.fromkeys([*expected, *actual]):
            if expected.get((kind, name)) != actual.get((kind, name)):
                difference = Difference(line["step"], line["batch"], line["what"], kind, name)
                found.append((order.get(key, len(order)), difference))
                break
    missing = [key for key in reference if key not in seen]
    found += [(order[key], Difference(key[1], key[2], key[0], "missing", "")) for key in missing]
    return min(found, key=lambda item: item[0])[1] if found else None


def _in_models(reference: Path, interrupted: Path) -> Difference | None:
    expected, actual = _digests(reference / "final"), _digests(interrupted / "final")
    for file in sorted({*expected, *actual}):
        if expected.get(file) != actual.get(file):
            return Difference("", 0, "final", "file", file)
    return None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def counts_of(trace: Lines) -> dict[str, int]:
    """How many things of each sort a trace compares."""
    names = {"field": "fields", "value": "values", "loss": "losses", "metric": "metrics of evaluations"}
    entries = [entry for line in trace.values() for entry in line]
    counts = {"batches": sum(what == "batch" for what, _, _ in trace)}
    counts["samples"] = sum(len(json.loads(digest)) for kind, _, digest in entries if kind == "samples")
    counts.update({label: sum(kind == each for kind, _, _ in entries) for each, label in names.items()})
    counts["tensors and counters of weights, optimizers, averages"] = sum(kind == "state" for kind, _, _ in entries)
    return counts


HIDDEN = "it keeps state outside checkpoints, or uses random numbers of its own:\n"

STATEFUL = """take random numbers from `generator`, return the state kept between batches from `state_dict`,
and restore it in `load_state_dict`"""

#: Kinds whose components may keep nothing between calls, since their state is never saved: what to do instead.
STATELESS = {
    "metric": """take random numbers from `generator`, and keep no state from one call to the next:
a metric must depend only on the values that it receives""",
    "dataset": """keep no state from one batch to the next: a sample must depend only on its index,
and its random part only on the index and the seed""",
}


def blame(plan: RecipePlan, difference: Difference) -> list[str]:
    """Lines that name what differs, its component with plugin and location, and the likely cause."""
    step = plan.step(difference.step)
    what, configured = _component(plan, step, difference)
    rows = [("first", what)]
    if configured is not None:
        component = configured.component
        rows.append(("component", f"{component.kind} `{component.name}`"))
        rows.append(("defined in", str(component.where)))
        rows.append(("plugin", str(component.plugin)))
        rows.append(("likely", HIDDEN + STATELESS.get(component.kind, STATEFUL)))
    gap = "\n" + " " * 16
    return [f"    {label:<10}  {gap.join(text.splitlines())}" for label, text in rows]


def _component(plan: RecipePlan, step: StepPlan, difference: Difference) -> tuple[str, ConfiguredComponent | None]:
    kind, name = difference.kind, difference.name
    dataset = plan.datasets.get(step.settings.dataset)
    if kind == "samples":
        return "the batch contains different samples", dataset
    if kind == "field":
        return f"field `{name}` of the same samples", dataset
    if kind == "value":
        return f"value `{name}`, from the same inputs", step.providers.get(name)
    if kind == "loss":
        update, _, label = name.partition("/")
        loss = step.updates[update].losses.get(label)
        return f"loss `{name}`, from the same values", loss.component if loss else None
    if kind == "total":
        return f"the weighted sum of update `{name}`, from the same losses", step.updates[name].balancer
    if kind == "metric":
        evaluation, _, metric = name.partition("/")
        return f"metric `{name}`, from the same weights", step.evaluations[evaluation].metrics.get(metric)
    if kind in ("said", "kept"):
        part, _, attribute = name.rpartition(".") if kind == "kept" else (name, "", "")
        transition = step.components[part]
        does = f"keeps in `{attribute}`" if attribute else "returns after the epoch"
        return f"what transition `{transition.name}` {does}", transition
    return _of_state(plan, step, name)


def _of_state(plan: RecipePlan, step: StepPlan, name: str) -> tuple[str, ConfiguredComponent | None]:
    """The component behind a part of the state, such as `update.vae.optimizer.state.0.exp_avg`."""
    section, _, rest = name.partition(".")
    part, _, key = rest.partition(".")
    what = f"`{name}`"
    if section == "update" and part in step.updates:
        update = step.updates[part]
        kept, _, label = key.partition(".")
        start = update.starts.get(label)
        if kept == "starts" and isinstance(start, WhenMet):
            return what, start.condition
        owners = {"optimizer": update.optimizer, "scheduler": update.scheduler, "weigher": update.balancer}
        return what, owners.get(kept, update.optimizer)
    if section == "model":
        trained = [update for update in step.updates.values() if part in update.trains]
        return what, trained[0].optimizer if trained else plan.models.get(part)
    if section == "component":
        return what, _stateful(step, rest)
    return what, None


def _stateful(step: StepPlan, name: str) -> ConfiguredComponent | None:
    """The component of the step to which a state belongs, as `loss.vae.kl.count` belongs to `loss.vae.kl`."""
    owners = [known for known in step.components if f"{name}.".startswith(f"{known}.")]
    return step.components[max(owners, key=len)] if owners else None
