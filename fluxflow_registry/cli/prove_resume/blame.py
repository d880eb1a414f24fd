"""Which component makes a resumed run differ: the one behind the first thing that is not the same."""

from __future__ import annotations

from typing import Protocol

from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import WhenMet


class Differs(Protocol):
    """The first thing in which two runs differ."""

    @property
    def step(self) -> str:
        """The step in which it shows."""

    @property
    def kind(self) -> str:
        """Whether it is a field, a value, a loss, a part of the state, and so on."""

    @property
    def name(self) -> str:
        """Its name among those of its kind."""


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


def blame(plan: RecipePlan, difference: Differs) -> list[str]:
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


def _component(plan: RecipePlan, step: StepPlan, difference: Differs) -> tuple[str, ConfiguredComponent | None]:
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
