"""`--validate` and `--explain`: what a recipe will do, step by step and update by update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result
from fluxflow_registry.errors import counted
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import LossPlan, Start, UpdatePlan, WhenMet
from fluxflow_registry.recipe.schema import StepSettings


def validate_command(invocation: Invocation) -> Result:
    """What the recipe of the command line trains, in short."""
    plan = invocation.plan
    return Result(lambda: summary_data(plan), lambda: summary(plan))


def explain_command(invocation: Invocation) -> Result:
    """The plan of the recipe of the command line, or a diagram of it."""
    plan = invocation.plan
    return Result(lambda: explain_data(plan), lambda: (mermaid if invocation.arguments.mermaid else explain)(plan))


def summary(plan: RecipePlan) -> str:
    """The recipe on a few lines: it is valid, and this is what it trains."""
    recipe = plan.recipe
    lines = [f"{recipe.path} is valid: recipe `{recipe.name}`, {counted(len(plan.steps), 'step')}"]
    for step in plan.steps:
        settings = step.settings
        end = f", until {step.until.name}" if step.until else ""
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
        lines += [f"    frozen: {', '.join(sorted(step.frozen))}"] if step.frozen else []
        lines += [
            f"    evaluates {name}: {', '.join(each.metrics)} over "
            f"{counted(each.settings.samples, 'sample')} of `{each.settings.dataset}`"
            for name, each in step.evaluations.items()
        ]
    return "\n".join(lines)


def _late(update: UpdatePlan) -> str:
    """What of an update does not start with the step."""
    late = [f"{label} {start.description}".strip() for label, start in update.starts.items() if start.description]
    return f"; {', '.join(late)}" if late else ""


def summary_data(plan: RecipePlan) -> dict[str, Any]:
    """The summary as JSON."""
    return {
        "valid": True,
        "recipe": plan.recipe.name,
        "steps": [
            {
                "name": step.name,
                "after": step.parent,
                "epochs": step.settings.epochs,
                "updates": {name: list(update.trains) for name, update in step.updates.items()},
            }
            for step in plan.steps
        ],
    }


def explain(plan: RecipePlan) -> str:
    """The step graph, and for each update its plan: values in order, what requests them, gradients, reuse."""
    lines = ["STEPS"]
    lines += [f"  {step.parent or 'start'} -> {step.name}" for step in plan.steps]
    for step in plan.steps:
        lines += ["", *_step(step)]
    lines += ["", "A value marked * carries gradient to the models in brackets; one marked = is reused."]
    return "\n".join(lines)


def _step(step: StepPlan) -> list[str]:
    lines = [f"STEP {step.name}: on each batch of `{step.settings.dataset}` ({', '.join(step.fields)})"]
    for update in step.updates.values():
        lines += ["", *_update(step, update)]
    return lines + (["", f"  frozen: {', '.join(sorted(step.frozen))}"] if step.frozen else [])


def _update(step: StepPlan, update: UpdatePlan) -> list[str]:
    scheduler = f", {update.scheduler.name}" if update.scheduler else ""
    lines = [
        f"  update {update.name}: trains {', '.join(sorted(update.trains))} "
        f"({update.optimizer.name}{scheduler})" + _start(update.start)
    ]
    rows = [_value(step, update, name) for name in update.order]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for mark, head, flow, users in rows:
        lines.append(f"    {mark:<{widths[0]}} {head:<{widths[1]}}  {flow:<{widths[2]}}  {users}".rstrip())
    lines += [f"    + {_loss(loss)}" for loss in update.losses.values()]
    return lines


def _value(step: StepPlan, update: UpdatePlan, name: str) -> tuple[str, str, str, str]:
    value = step.values[name]
    flows = update.gradient(value)
    later = update.carries.get(name, frozenset()) - flows
    mark = "=" if name in update.reused else " "
    mark += "*" if flows else " "
    flow = f"[{', '.join(sorted(flows))}]" if flows else ""
    if later and name not in update.reused:
        flow = (flow + f" keeps its graph for {', '.join(_later(step, update, name))}").strip()
    users = update.requested_by(name, step.values)
    return mark, f"{name}({', '.join(value.needs.values())})", flow, f"for {', '.join(users)}" if users else ""


def _later(step: StepPlan, update: UpdatePlan, name: str) -> list[str]:
    updates = list(step.updates.values())
    index = list(step.updates).index(update.name)
    return [u.name for u in updates[index + 1 :] if name in u.reused and u.gradient(step.values[name])]


def _loss(loss: LossPlan) -> str:
    text = f"{loss.weight:g} * {loss.label}({', '.join(loss.needs.values())})"
    if loss.every > 1:
        text += f", every {loss.every} batches"
    text += _start(loss.start)
    if loss.warmup:
        text += f", weight rising over {loss.warmup} batches"
    if loss.detached:
        text += f", detached at {', '.join(sorted(loss.detached))}"
    return f"{text} -> {', '.join(sorted(loss.reaches))}"


def _start(start: Start) -> str:
    return f", {start.description}" if start.description else ""


def explain_data(plan: RecipePlan) -> dict[str, Any]:
    """The plans as JSON."""
    return {
        "recipe": plan.recipe.name,
        "steps": [
            {
                "name": step.name,
                "after": step.parent,
                "updates": [_update_data(step, update) for update in step.updates.values()],
                "frozen": sorted(step.frozen),
            }
            for step in plan.steps
        ],
    }


def _update_data(step: StepPlan, update: UpdatePlan) -> dict[str, Any]:
    return {
        "name": update.name,
        **_start_data(update.start),
        "trains": sorted(update.trains),
        "values": [
            {
                "name": name,
                "needs": dict(step.values[name].needs),
                "requested_by": update.requested_by(name, step.values),
                "gradient": sorted(update.gradient(step.values[name])),
                "reused": name in update.reused,
            }
            for name in update.order
        ],
        "losses": [
            {
                "name": loss.label,
                "needs": dict(loss.needs),
                "detach": sorted(loss.detached),
                "reaches": sorted(loss.reaches),
                **_start_data(loss.start),
            }
            for loss in update.losses.values()
        ],
    }


def _start_data(start: Start) -> dict[str, Any]:
    """The batch at which something starts, or the transition by which it does; nothing where it starts at once."""
    if isinstance(start, WhenMet):
        return {"start": start.condition.name}
    return {"start": start.batch} if start.batch else {}


def mermaid(plan: RecipePlan) -> str:
    """The step graph and each update's plan as a Mermaid flowchart; thick arrows carry gradient.

    Nodes are numbered and their names are quoted: Mermaid has reserved words, such as `end`.
    """
    lines = ["flowchart LR"]
    numbers = {step.name: f"s{step.index + 1}" for step in plan.steps}
    for step in plan.steps:
        lines.append(f'  subgraph {numbers[step.name]}["{step.name}"]')
        for index, update in enumerate(step.updates.values()):
            number = f"{numbers[step.name]}u{index + 1}"
            lines += [f'    subgraph {number}["{update.name}"]', *_edges(step, update, number), "    end"]
        lines.append("  end")
    lines += [f"  {numbers[step.parent]} --> {numbers[step.name]}" for step in plan.steps if step.parent]
    return "\n".join(lines)


def _edges(step: StepPlan, update: UpdatePlan, number: str) -> Iterable[str]:
    used: dict[str, None] = {}
    edges = []
    for target, needs in [
        *((f"{number}_{name}", step.values[name].needs) for name in update.order),
        *((f"{number}loss_{label}", loss.needs) for label, loss in update.losses.items()),
    ]:
        for need in needs.values():
            if step.values[need].source == "context":
                continue
            used[need] = None
            arrow = "==>" if update.gradient(step.values[need]) else "-->"
            edges.append(f"      {number}_{need} {arrow} {target}")
    for name in used:
        shape = f'[/"{name}"/]' if step.values[name].source == "model" else f'("{name}")'
        yield f"      {number}_{name}{shape}"
    for label in update.losses:
        yield f'      {number}loss_{label}{{{{"{label}"}}}}'
    yield from edges


def _batches(settings: StepSettings) -> str:
    """`batches`, or how many of them an epoch has at most."""
    return "batches" if settings.max_steps is None else f"at most {counted(settings.max_steps, 'batch')}"
