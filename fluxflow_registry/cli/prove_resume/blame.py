"""Whose it is that a resumed run differs: the component behind the first thing that is not the same."""

from __future__ import annotations

from typing import Protocol

from fluxflow_registry.plan.checked import CheckedStep, ConfiguredComponent, RecipePlan


class Differs(Protocol):
    """The first thing in which two runs differ."""

    @property
    def step(self) -> str:
        """The step in which it shows."""

    @property
    def kind(self) -> str:
        """Whether it is a field, a value, a loss, a part of the state ..."""

    @property
    def name(self) -> str:
        """Its name among those of its kind."""


HIDDEN = "it keeps something that no checkpoint holds, or draws random numbers of its own;\n"

KEPT = """random numbers come from `generator`, and what is kept between batches is given
as `state_dict` and taken back by `load_state_dict`"""

#: Kinds whose components may keep nothing, so that nobody asks for their state: what they are to be instead.
MAY_KEEP_NOTHING = {
    "metric": """random numbers come from `generator`, and a metric may keep nothing from one call to the next:
what it gives is a function of the values that it is given""",
    "dataset": """a dataset may keep nothing from one batch to the next: a sample is a function of its number,
and what is random about it of its number and the seed""",
}


def blamed(checked: RecipePlan, difference: Differs) -> list[str]:
    """Lines that name what differs, the component with its plugin and place, and what it does wrong."""
    step = checked.step(difference.step)
    what, component = _component(checked, step, difference)
    rows = [("first", what)]
    if component is not None:
        plugin = component.component.plugin
        rows.append(("made by", f"{component.component.kind} `{component.component.name}`"))
        rows.append(("defined in", str(component.component.where)))
        rows.append(("plugin", f"{plugin.name} ({plugin.distribution} {plugin.version}".rstrip() + ")"))
        rows.append(("likely", HIDDEN + MAY_KEEP_NOTHING.get(component.component.kind, KEPT)))
    gap = "\n" + " " * 16
    return [f"    {label:<10}  {gap.join(text.splitlines())}" for label, text in rows]


def _component(checked: RecipePlan, step: CheckedStep, difference: Differs) -> tuple[str, ConfiguredComponent | None]:
    kind, name = difference.kind, difference.name
    dataset = checked.datasets.get(step.step.settings.dataset)
    if kind == "samples":
        return "the batch holds other samples", dataset
    if kind == "field":
        return f"field `{name}` of the same samples", dataset
    if kind == "value":
        return f"value `{name}`, from the same inputs", step.providers.get(name)
    if kind == "loss":
        update, _, label = name.partition("/")
        return f"loss `{name}`, from the same values", step.updates[update].losses.get(label)
    if kind == "total":
        return f"the weighted sum of update `{name}`, from the same losses", step.updates[name].balancer
    if kind == "metric":
        evaluation, _, metric = name.partition("/")
        return f"figure `{name}`, of the same weights", step.evaluations[evaluation].metrics.get(metric)
    if kind in ("said", "kept"):
        part, _, attribute = name.rpartition(".") if kind == "kept" else (name, "", "")
        transition = step.parts[part]
        told = f"keeps as `{attribute}`" if attribute else "says after the epoch"
        return f"what transition `{transition.component.name}` {told}", transition
    return _of_state(checked, step, name)


def _of_state(checked: RecipePlan, step: CheckedStep, name: str) -> tuple[str, ConfiguredComponent | None]:
    """The component behind a part of the state, such as `update.vae.optimizer.state.0.exp_avg`."""
    section, _, rest = name.partition(".")
    part, _, key = rest.partition(".")
    what = f"`{name}`"
    if section == "update" and part in step.updates:
        update = step.updates[part]
        kept, _, label = key.partition(".")
        if kept == "starts" and label in update.starts:
            return what, update.starts[label].condition
        owners = {"optimizer": update.optimizer, "scheduler": update.scheduler, "weigher": update.balancer}
        return what, owners.get(kept, update.optimizer)
    if section == "model":
        trained = [u for u in step.updates.values() if part in u.trains]
        return what, trained[0].optimizer if trained else checked.models.get(part)
    if section == "component":
        return what, _stateful(step, rest)
    return what, None


def _stateful(step: CheckedStep, name: str) -> ConfiguredComponent | None:
    """The part of the step of which something has that name, as `loss.vae.kl.count` is of `loss.vae.kl`."""
    parts = step.parts
    return next(
        (parts[part] for part in sorted(parts, key=len, reverse=True) if f"{name}.".startswith(f"{part}.")), None
    )
