"""Observer `watchdog`: warnings of losses that are high or stuck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from fluxflow_registry import Position, Summary, counted, hookimpl

from .formatting import NAME, is_control

if TYPE_CHECKING:
    from fluxflow_registry import RunView, StepView

#: Losses that need not fall in a healthy training: two networks balance each other, or a divergence from the prior
#: grows as the latent encodes more information.
HOVERING = ("discriminator*", "*/*discriminator*", "*/*generator*", "*/r1", "*/*kl*", "*/mmd")

#: A loss explodes if it is above this many times its lowest value and above a level that no healthy loss has.
EXPLOSION, LEVEL = 1e3, 1e2

#: The same of a loss that hovers, or that was not positive.
CERTAIN_EXPLOSION = 1e6

#: The mean of one metric over each epoch, oldest first.
Means = Sequence[float]


@frozen(eq=False)
class Watchdog:
    """Warns at the end of an epoch if a loss is stuck, rises or is high, once per step for each of these.

    It watches `<update>_loss` and `<update>/<loss>`, by their means over epochs, once `after` epochs of
    the step are done. A loss is *stuck* if no epoch is below the step's first epoch by the share `min_change`;
    a loss that an earlier step has logged is exempt, as it may be as low as it can get. A loss *rises* if
    it is above `rise` times its lowest epoch of the step. It is *high* if it is above its limit in
    `high`. Losses that match `ignore` (`*` matches anything) and losses that are not positive can only be
    high: adversarial losses and divergences from the prior stay level or grow in healthy training.

    A loss that *explodes* is reported as soon as it is logged, or at the end of the epoch: it is a thousand times as
    high as its lowest value, and above 100; of a loss that need not fall or was not positive, above a million.
    """

    default: ClassVar[bool] = True

    after: int = field(default=3, validator=validators.ge(2))
    """Epochs of a step before the first warning."""
    min_change: float = field(default=0.01, validator=[validators.gt(0), validators.lt(1)])
    """The share of its first epoch by which a loss must fall."""
    rise: float = field(default=3.0, validator=validators.gt(1))
    """How many times its lowest epoch a loss may reach."""
    high: dict[str, float] = field(factory=dict, validator=validators.deep_mapping(NAME, validators.instance_of(float)))
    """For each loss, the value above which it is high, such as `{vae/l1: 0.2}`."""
    ignore: list[str] = field(factory=lambda: list(HOVERING), validator=validators.deep_iterable(NAME))
    """Losses that may be stuck or rise without a warning."""

    #: Of each step and loss the lowest logged value, and which of them have been reported to explode.
    _lowest: dict[tuple[str, str], float] = field(init=False, factory=dict, repr=False)
    _exploded: set[tuple[str, str]] = field(init=False, factory=set, repr=False)

    def metrics(self) -> list[str]:
        """The losses that have a limit, for the check of the recipe."""
        return list(self.high)

    @hookimpl
    def metrics_logged(self, run: RunView, step: StepView, position: Position, metrics: Mapping[str, float]) -> None:
        """Warn if a loss explodes: an epoch may take days."""
        for name, value in metrics.items():
            lowest = self._lowest.get((step.name, name), math.inf)
            self._lowest[step.name, name] = min(lowest, value) if math.isfinite(value) else lowest
            self._report_explosion(run, step, position, name, value, lowest)

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """Warn if something is true of a loss for the first time in this step.

        This needs no state: a resumed run prints the same warnings as an uninterrupted one.
        """
        for name, summary in summaries.items():
            self._report_explosion(run, step, position, name, summary.smoothed, summary.minimum)
        if position.epoch < self.after:
            return
        before = run.history.get(step.name, {})
        logged_before = {name for other in run.steps[: step.index] for name in run.history.get(other.name, {})}
        for name, summary in summaries.items():
            means = [*before.get(name, ())[: position.epoch - 1], summary.mean]
            if not _is_loss(name) or len(means) < self.after:
                continue
            known = name in logged_before
            for kind, message in self._verdicts(name, means, known).items():
                if not any(kind in self._verdicts(name, means[:end], known) for end in range(self.after, len(means))):
                    run.warn(position, f"step `{step.name}`, epoch {position.epoch}: {message}")

    def _report_explosion(
        self, run: RunView, step: StepView, position: Position, name: str, now: float, lowest: float
    ) -> None:
        """Warn, once in a step, of a loss that is far above its lowest value."""
        wary = self._is_ignored(name) or lowest <= 0
        limit = CERTAIN_EXPLOSION * max(lowest, 1.0) if wary else max(EXPLOSION * lowest, LEVEL)
        if _is_loss(name) and limit < now < math.inf and (step.name, name) not in self._exploded:
            self._exploded.add((step.name, name))
            at = f"after {counted(position.step_batch, 'batch')}"
            run.warn(
                position, f"step `{step.name}`, {at}: `{name}` explodes: {now:.4g}, its lowest value was {lowest:.4g}"
            )

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.ignore)

    def _verdicts(self, name: str, means: Means, logged_before: bool) -> dict[str, str]:
        """What is wrong with a loss after these epochs: a message for each kind."""
        found = {}
        now, lowest = means[-1], min(means)
        limit = self.high.get(name)
        if limit is not None and now > limit:
            found["high"] = f"`{name}` is high: {now:.4g}, above {limit:.4g}"
        if self._is_ignored(name) or not lowest > 0 or not math.isfinite(now):
            return found
        if not logged_before and lowest > means[0] * (1 - self.min_change):
            found["stuck"] = f"`{name}` is stuck: {now:.4g}, was {means[0]:.4g} in the step's first epoch"
        if now > self.rise * lowest:
            best = means.index(lowest) + 1
            found["rise"] = (
                f"`{name}` rises: {now:.4g}, {now / lowest:.1f} times its value in epoch {best} ({lowest:.4g})"
            )
        return found


def _is_loss(name: str) -> bool:
    return name.endswith("_loss") or ("/" in name and not is_control(name))
