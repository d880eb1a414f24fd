"""Observer `pipeline`: the steps of a run, announced as FluxFlow announces them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import field, frozen

from fluxflow_registry import Position, counted, hookimpl, printable
from fluxflow_registry.commands import say

if TYPE_CHECKING:
    from fluxflow_registry import RunView, StepView

#: Length of the line under a heading.
RULE = 80


@frozen(eq=False)
class Pipeline:
    """Prints on standard error which step starts, what it is for and how long it takes, and where a run resumes.

    The lines are those of FluxFlow: `PIPELINE STEP 1/3: vae_warmup`, `Description: ...`, `Duration: 10
    epochs`; for a resumed run: `Resuming from checkpoint: step=2 (vae_gan), epoch=5, batch=127`.
    """

    descriptions: Mapping[str, str] = field(factory=dict)
    """For each step, what it is for."""

    @hookimpl(tryfirst=True)
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """Announce where the run resumes."""
        if not resumed or position.step >= len(run.steps):
            return
        step, done = run.steps[position.step], [each.name for each in run.steps[: position.step]]
        at = f"epoch={position.epoch + 1}, batch={position.batch}"
        lines = [f"Resuming from checkpoint: step={position.step + 1} ({step.name}), {at}"]
        lines += [f"Skipping steps: {', '.join(done)}"] if done else []
        _say([*lines, f"Starting step: {step.name}, {at.replace('=', ' ')}"])

    @hookimpl(tryfirst=True)
    def step_started(self, run: RunView, step: StepView) -> None:
        """Announce the step."""
        description = self.descriptions.get(step.name)
        lines = [f"PIPELINE STEP {step.index + 1}/{len(run.steps)}: {step.name}"]
        lines += [f"Description: {description}"] if description else []
        _say([*lines, f"Duration: {counted(step.epochs, 'epoch')}", "=" * RULE])


def _say(lines: list[str]) -> None:
    say("\n".join(map(printable, lines)))
