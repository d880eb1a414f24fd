"""Observer `watchdog`: warnings of losses that are high or stuck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from fluxflow_registry import Position, Summary, hookimpl

from .metric_names import NAME, is_steering

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView

#: Losses that neither fall nor rise while all goes well: two networks hold each other there, or a divergence
#: from the prior grows as the latent takes up information.
HOVERING = ("discriminator*", "*/*discriminator*", "*/*generator*", "*/r1", "*/*kl*", "*/mmd")

#: The mean of one metric over each epoch, oldest first.
Means = Sequence[float]


@frozen(eq=False)
class Watchdog:
    """Warns at the end of an epoch of a loss that is stuck, rises or is high; of each once in a step.

    Watched are `<update>_loss` and `<update>/<loss>`, by their means over epochs, once `after` epochs of
    the step are done. A loss is *stuck* if it has never been below its first epoch by the share
    `min_change` of it; one that an earlier step has logged is not judged so, as it may be as low as it
    gets. It *rises* if it is above `rise` times its least epoch of the step. It is *high* if it is above
    the figure that `high` states for it. What `ignore` matches (`*` stands for anything) is watched for
    being high alone, and so is a loss that is not positive: adversarial losses and those of divergence
    from the prior hover or grow while all goes well.
    """

    default: ClassVar[bool] = True

    after: int = field(default=3, validator=validators.ge(2))
    """Epochs of a step that are waited for."""
    min_change: float = field(default=0.01, validator=[validators.gt(0), validators.lt(1)])
    """The share of its first epoch by which a loss has to fall."""
    rise: float = field(default=3.0, validator=validators.gt(1))
    """How many times its least epoch a loss may be."""
    high: dict[str, float] = field(factory=dict, validator=validators.deep_mapping(NAME, validators.instance_of(float)))
    """For a loss the figure above which it is high, such as `{vae/l1: 0.2}`."""
    ignore: list[str] = field(factory=lambda: list(HOVERING), validator=validators.deep_iterable(NAME))
    """Losses that are not watched for being stuck or rising."""

    def metrics(self) -> list[str]:
        """The losses that are watched for being high."""
        return list(self.high)

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """Warn of each loss of which something is true now for the first time.

        So nothing needs to be remembered, and a run that goes on warns of what a whole one warns of.
        """
        if position.epoch < self.after:
            return
        before = run.history.get(step.name, {})
        learnt = {name for other in run.steps[: step.index] for name in run.history.get(other.name, {})}
        for name, summary in summaries.items():
            means = [*before.get(name, ())[: position.epoch - 1], summary.mean]
            if not _is_loss(name) or len(means) < self.after:
                continue
            known = name in learnt
            for kind, message in self._told(name, means, known).items():
                if not any(kind in self._told(name, means[:end], known) for end in range(self.after, len(means))):
                    run.warn(position, f"step `{step.name}`, epoch {position.epoch}: {message}")

    def _told(self, name: str, means: Means, learnt: bool) -> dict[str, str]:
        """What is wrong with a loss after these epochs, by kind."""
        found = {}
        now, least = means[-1], min(means)
        limit = self.high.get(name)
        if limit is not None and now > limit:
            found["high"] = f"`{name}` is high: {now:.4g}, above {limit:.4g}"
        if any(fnmatchcase(name, pattern) for pattern in self.ignore) or not least > 0 or not math.isfinite(now):
            return found
        if not learnt and least > means[0] * (1 - self.min_change):
            found["stuck"] = f"`{name}` is stuck: {now:.4g}, and {means[0]:.4g} in the step's first epoch"
        if now > self.rise * least:
            best = means.index(least) + 1
            found["rise"] = (
                f"`{name}` rises: {now:.4g}, {now / least:.1f} times as much as in epoch {best} ({least:.4g})"
            )
        return found


def _is_loss(name: str) -> bool:
    return name.endswith("_loss") or ("/" in name and not is_steering(name))
