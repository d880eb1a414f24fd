"""`--validate` and `--explain`: what a recipe will do, step by step and update by update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fluxflow_registry.check.notes import value_notes
from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result, say_notes
from fluxflow_registry.errors import counted
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import LossPlan, Start, UpdatePlan, WhenMet


def validate_command(invocation: Invocation) -> Result:
    """What the recipe of the command line trains, in short."""
    plan = invocation.plan
    say_notes(value_notes(plan))
    return Result(lambda: summary_data(plan), lambda: summary(plan))


def explain_command(invocation: Invocation) -> Result:
    """The plan of the recipe of the command line, or a diagram of it."""
    plan = invocation.plan
    return Result(lambda: explain_data(plan), lambda: (mermaid if invocation.arguments.mermaid else explain)(plan))


#: Without `--explain`, `--mermaid` is a command of its own.
mermaid_command = explain_command


def summary(plan: RecipePlan) -> str:
    """The recipe on a few lines: it is valid, and this is what it trains."""
    recipe = plan.recipe
    lines = [f"{recipe.path} is valid: recipe `{recipe.name}`, {counted(len(plan.steps), 'step')}"]
    for step in plan.steps:
        settings, most = step.settings, step.settings.max_steps
        end = f", until {step.until.name}" if step.until else ""
        after = f" after {step.parent}" if step.parent else ""
        batches = "batches" if most is None else f"at most {counted(most, 'batch')}"
        averaged = f", {step.accumulate} per optimizer step" if step.accumulate > 1 else ""
        length = f"{counted(settings.epochs, 'epoch')} of `{settings.dataset}` in {batches} of {settings.batch_size}"
        length += averaged
        lines += ["", f"step {step.index + 1}: {step.name}{after} ({length}{end})"]
        for update in step.updates.values():
            late = [f"{label} {each.description}".strip() for label, each in update.starts.items() if each.description]
            losses = "; ".join(filter(None, [", ".join(update.losses), ", ".join(late)]))
            lines.append(f"    {update.name}: trains {', '.join(update.trains)}; losses {losses}")
        lines += [f"    frozen: {', '.join(sorted(step.frozen))}"] if step.frozen else []
        lines += [
            f"    evaluates {name}: {', '.join(each.metrics)} over "
            f"{counted(each.settings.samples, 'sample')} of `{each.settings.dataset}`"
            for name, each in step.evaluations.items()
        ]
    return "\n".join(lines)


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
    lines = ["STEPS", *(f"  {step.parent or 'start'} -> {step.name}" for step in plan.steps)]
    for step in plan.steps:
        lines += ["", f"STEP {step.name}: on each batch of `{step.settings.dataset}` ({', '.join(step.fields)})"]
        if step.accumulate > 1:
            effective = f"the gradients of {step.accumulate} batches of {step.settings.batch_size} are averaged"
            samples = step.settings.batch_size * step.accumulate
            lines.append(f"  {effective}: each optimizer step uses {samples:,} samples")
        for update in step.updates.values():
            lines += ["", *_update(step, update)]
        lines += ["", f"  frozen: {', '.join(sorted(step.frozen))}"] if step.frozen else []
    lines += ["", "A value marked * carries gradient to the models in brackets; one marked = is reused."]
    return "\n".join(lines)


def _update(step: StepPlan, update: UpdatePlan) -> list[str]:
    scheduler = f", {update.scheduler.name}" if update.scheduler else ""
    how = f"({update.optimizer.name}{scheduler}){_start(update.start)}"
    lines = [f"  update {update.name}: trains {', '.join(sorted(update.trains))} {how}"]
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
    mark = ("=" if name in update.reused else " ") + ("*" if flows else " ")
    flow = f"[{', '.join(sorted(flows))}]" if flows else ""
    if later and name not in update.reused:
        following = list(step.updates.values())[list(step.updates).index(update.name) + 1 :]
        reusing = [each.name for each in following if name in each.reused and each.gradient(value)]
        flow = f"{flow} keeps its graph for {', '.join(reusing)}".strip()
    users = update.requested_by(name, step.values)
    return mark, f"{name}({', '.join(value.needs.values())})", flow, f"for {', '.join(users)}" if users else ""


def _loss(loss: LossPlan) -> str:
    every = f", every {loss.every} batches" if loss.every > 1 else ""
    rising = f", weight rising over {loss.warmup} batches" if loss.warmup else ""
    detached = f", detached at {', '.join(sorted(loss.detached))}" if loss.detached else ""
    term = f"{loss.weight:g} * {loss.label}({', '.join(loss.needs.values())})"
    return f"{term}{every}{_start(loss.start)}{rising}{detached} -> {', '.join(sorted(loss.reaches))}"


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
                "batch_size": step.settings.batch_size,
                "accumulate": step.accumulate,
                "effective_batch_size": step.settings.batch_size * step.accumulate,
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
    targets = {f"{number}_{name}": step.values[name].needs for name in update.order}
    targets |= {f"{number}loss_{label}": loss.needs for label, loss in update.losses.items()}
    needed = [(need, target) for target, needs in targets.items() for need in needs.values()]
    needed = [(need, target) for need, target in needed if step.values[need].source != "context"]
    for name in dict.fromkeys(need for need, _ in needed):
        shape = f'[/"{name}"/]' if step.values[name].source == "model" else f'("{name}")'
        yield f"      {number}_{name}{shape}"
    for label in update.losses:
        yield f'      {number}loss_{label}{{{{"{label}"}}}}'
    for need, target in needed:
        yield f"      {number}_{need} {'==>' if update.gradient(step.values[need]) else '-->'} {target}"
