"""The metrics that a step logs, and what is wrong with watching one that it does not."""

from __future__ import annotations

from fluxflow_registry.errors import Problem, choices
from fluxflow_registry.recipe.schema import FIGURES, Step


def logged_metrics(step: Step) -> list[str]:
    """The metrics that training logs: `<update>_loss`, `<update>/<loss>`, `<update>/grad_norm`, `<update>/lr`."""
    names = []
    for update in step.updates.values():
        names.append(f"{update.name}_loss")
        names.extend(f"{update.name}/{label}" for label in (*update.losses, *sorted(FIGURES)))
    return names


def watched(step: Step, name: str, who: str, where: str) -> Problem | None:
    """What is wrong where `who` watches metric `name` after each epoch: it would wait for ever."""
    logged = logged_metrics(step)
    measured = step.evaluate.get(name.partition("/")[0])
    if measured is not None and measured.settings.every is None:
        hint = ("state it", f"`every: 1` in evaluation `{measured.name}`")
        return Problem(f"{who} watches `{name}`, which is measured at the end only", where, (hint,))
    if name not in logged and measured is None:
        message = f"{who} watches `{name}`, which step `{step.name}` does not log"
        return Problem(message, where, choices(name, logged, "logged"))
    return None
