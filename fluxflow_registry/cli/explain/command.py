"""`--validate` and `--explain`: what a recipe will do, step by step and update by update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fluxflow_registry.check.checker import CheckedStep, CheckedUpdate, RecipePlan
from fluxflow_registry.errors import counted
from fluxflow_registry.plan.checked import LateStart
from fluxflow_registry.plan.updates import LossPlan, StepPlan, UpdatePlan
from fluxflow_registry.recipe.schema import OWN, StepSettings


def summary(checked: RecipePlan) -> str:
    """The recipe on a few lines: it is valid, and this is what it trains."""
    recipe = checked.recipe
    lines = [f"{recipe.path} is valid: recipe `{recipe.name}`, {counted(len(checked.steps), 'step')}"]
    for step in checked.steps:
        settings = step.step.settings
        end = f", until {step.until.component.name}" if step.until else ""
        after = f" after {step.parent}" if step.parent else ""
        lines += [
            "",
            f"step {step.index + 1}: {step.name}{after} ({counted(settings.epochs, 'epoch')} of "
            f"`{settings.dataset}` in {_batches(settings)} of {settings.batch_size}{end})",
        ]
        lines += [
            f"    {update.name}: trains {', '.join(update.trains)}; losses {', '.join(update.losses)}{_late(update)}"
            for update in step.updates.values()
        ]
        frozen = sorted(step.plan.models - step.plan.trains)
        lines += [f"    frozen: {', '.join(frozen)}"] if frozen else []
        lines += [
            f"    measures {name}: {', '.join(e.metrics)} over "
            f"{counted(e.evaluation.settings.samples, 'sample')} of `{e.evaluation.settings.dataset}`"
            for name, e in step.evaluations.items()
        ]
    return "\n".join(lines)


def _late(update: CheckedUpdate) -> str:
    """What of an update does not start with the step."""
    told = [f"{label} {start}".strip() for label, start in update.starts.items() if str(start)]
    return f"; {', '.join(told)}" if told else ""


def summary_data(checked: RecipePlan) -> dict[str, Any]:
    """The summary as JSON."""
    return {
        "valid": True,
        "recipe": checked.recipe.name,
        "steps": [
            {
                "name": step.name,
                "after": step.parent,
                "epochs": step.step.settings.epochs,
                "updates": {name: list(update.trains) for name, update in step.updates.items()},
            }
            for step in checked.steps
        ],
    }


def explain(checked: RecipePlan) -> str:
    """The step graph, and for each update its plan: values in order, askers, gradients, reuse."""
    lines = ["STEPS"]
    lines += [f"  {step.parent or 'start'} -> {step.name}" for step in checked.steps]
    for step in checked.steps:
        lines += ["", *_step(step)]
    lines += ["", "A value marked * carries gradient to the models in brackets; one marked = is reused."]
    return "\n".join(lines)


def _step(step: CheckedStep) -> list[str]:
    plan = step.plan
    lines = [f"STEP {step.name}: on each batch of `{step.step.settings.dataset}` ({', '.join(step.fields)})"]
    for update in plan.updates:
        lines += ["", *_update(step, plan, update, step.updates[update.name])]
    frozen = sorted(plan.models - plan.trains)
    return lines + (["", f"  frozen: {', '.join(frozen)}"] if frozen else [])


def _update(step: CheckedStep, plan: StepPlan, update: UpdatePlan, checked: CheckedUpdate) -> list[str]:
    scheduler = f", {checked.scheduler.component.name}" if checked.scheduler else ""
    lines = [
        f"  update {update.name}: trains {', '.join(sorted(update.trains))} "
        f"({checked.optimizer.component.name}{scheduler})" + _and(checked.starts[OWN])
    ]
    rows = [_value(plan, update, name) for name in update.order]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for mark, head, flow, asked in rows:
        lines.append(f"    {mark:<{widths[0]}} {head:<{widths[1]}}  {flow:<{widths[2]}}  {asked}".rstrip())
    lines += [f"    + {_loss(checked, loss)}" for loss in update.losses]
    return lines


def _value(plan: StepPlan, update: UpdatePlan, name: str) -> tuple[str, str, str, str]:
    value = plan.values[name]
    flows = update.gradient(value)
    later = update.carries.get(name, frozenset()) - flows
    mark = "=" if name in update.reused else " "
    mark += "*" if flows else " "
    flow = f"[{', '.join(sorted(flows))}]" if flows else ""
    if later and name not in update.reused:
        flow = (flow + f" keeps its graph for {', '.join(_later(plan, update, name))}").strip()
    askers = update.askers(name, plan.values)
    asked = f"for {', '.join(askers)}" if askers else ""
    return mark, f"{name}({', '.join(value.needs.values())})", flow, asked


def _later(plan: StepPlan, update: UpdatePlan, name: str) -> list[str]:
    index = [u.name for u in plan.updates].index(update.name)
    return [u.name for u in plan.updates[index + 1 :] if name in u.reused and u.gradient(plan.values[name])]


def _loss(checked: CheckedUpdate, loss: LossPlan) -> str:
    entry = checked.losses[loss.label].entry
    settings = entry.settings if entry else None
    told = f"{checked.weight(loss.label):g} * {loss.label}({', '.join(loss.needs.values())})"
    if settings and settings.every > 1:
        told += f", every {settings.every} batches"
    told += _and(checked.starts[loss.label])
    if settings and settings.warmup:
        told += f", weight rising over {settings.warmup} batches"
    if loss.detach:
        told += f", cut at {', '.join(sorted(loss.detach))}"
    return f"{told} -> {', '.join(sorted(loss.reaches))}"


def _and(start: LateStart) -> str:
    return f", {start}" if str(start) else ""


def explain_data(checked: RecipePlan) -> dict[str, Any]:
    """The plans as JSON."""
    return {
        "recipe": checked.recipe.name,
        "steps": [
            {
                "name": step.name,
                "after": step.parent,
                "updates": [_update_data(step.plan, update, step.updates[update.name]) for update in step.plan.updates],
                "frozen": sorted(step.plan.models - step.plan.trains),
            }
            for step in checked.steps
        ],
    }


def _update_data(plan: StepPlan, update: UpdatePlan, checked: CheckedUpdate) -> dict[str, Any]:
    return {
        "name": update.name,
        **_start_data(checked.starts[OWN]),
        "trains": sorted(update.trains),
        "values": [
            {
                "name": name,
                "needs": dict(plan.values[name].needs),
                "asked_by": update.askers(name, plan.values),
                "gradient": sorted(update.gradient(plan.values[name])),
                "reused": name in update.reused,
            }
            for name in update.order
        ],
        "losses": [
            {
                "name": loss.label,
                "needs": dict(loss.needs),
                "detach": sorted(loss.detach),
                "reaches": sorted(loss.reaches),
                **_start_data(checked.starts[loss.label]),
            }
            for loss in update.losses
        ],
    }


def _start_data(start: LateStart) -> dict[str, Any]:
    """The batch at which something starts, or the transition by which it does; nothing where it starts at once."""
    if start.condition is not None:
        return {"start": start.condition.component.name}
    return {"start": start.batch} if start.batch else {}


def mermaid(checked: RecipePlan) -> str:
    """The step graph and each update's plan as a Mermaid flowchart; thick arrows carry gradient.

    Nodes are numbered and their names stand in quotes: Mermaid stumbles over words of its own, such as `end`.
    """
    lines = ["flowchart LR"]
    numbers = {step.name: f"s{step.index + 1}" for step in checked.steps}
    for step in checked.steps:
        lines.append(f'  subgraph {numbers[step.name]}["{step.name}"]')
        for index, update in enumerate(step.plan.updates):
            number = f"{numbers[step.name]}u{index + 1}"
            lines += [f'    subgraph {number}["{update.name}"]', *_edges(step, update, number), "    end"]
        lines.append("  end")
    lines += [f"  {numbers[step.parent]} --> {numbers[step.name]}" for step in checked.steps if step.parent]
    return "\n".join(lines)


def _edges(step: CheckedStep, update: UpdatePlan, number: str) -> Iterable[str]:
    plan = step.plan
    models = {n for n in plan.values if plan.values[n].source == "model"}
    used: dict[str, None] = {}
    edges = []
    for target, needs in [
        *((f"{number}_{name}", plan.values[name].needs) for name in update.order),
        *((f"{number}loss_{loss.label}", loss.needs) for loss in update.losses),
    ]:
        for need in needs.values():
            if plan.values[need].source == "context":
                continue
            used[need] = None
            arrow = "==>" if plan.values[need].models & update.trains else "-->"
            edges.append(f"      {number}_{need} {arrow} {target}")
    for name in used:
        shape = f'[/"{name}"/]' if name in models else f'("{name}")'
        yield f"      {number}_{name}{shape}"
    for loss in update.losses:
        yield f'      {number}loss_{loss.label}{{{{"{loss.label}"}}}}'
    yield from edges


def _batches(settings: StepSettings) -> str:
    """`batches`, or how many of them an epoch has at most."""
    return "batches" if settings.max_steps is None else f"at most {counted(settings.max_steps, 'batch')}"
