"""When a step ends."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen, validators

from fluxflow_registry import Ending, History, Register, counted, hookimpl


def epoch(epoch: int, epochs: int) -> Ending | None:
    """Ends after the step's `epochs`, as a step without a transition does."""
    return Ending(counted(epochs, "epoch")) if epoch >= epochs else None


@frozen
class LossThreshold:
    """Ends when a metric, smoothed over its last 20 logged values, is below (or above) a threshold.

    It must be so at the end of `patience` epochs in a row, after at least `min_epochs`; after
    `max_epochs` the step ends all the same, with a warning.
    """

    metric: str
    """A metric that the step logs, such as `vae_loss` or `vae/kl`, or `<evaluation>/<metric>`."""
    threshold: float
    """The value that must be passed."""
    mode: Literal["below", "above"] = "below"
    """On which side of it the step ends: below for losses, above for figures such as psnr."""
    patience: int = field(default=1, validator=validators.ge(1))
    """Epochs in a row for which it must hold."""
    min_epochs: int = field(default=1, validator=validators.ge(1))
    """Epochs that are done in any case."""
    max_epochs: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Safety limit; None: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The metric that is watched."""
        return [self.metric]

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the threshold has held long enough, or the limit is reached."""
        recent = history.get(self.metric, ())[-self.patience :]
        sign = 1 if self.mode == "below" else -1
        passed = len(recent) == self.patience and all(sign * s.smoothed < sign * self.threshold for s in recent)
        if passed and epoch >= self.min_epochs:
            relation = "<" if self.mode == "below" else ">"
            told = f"{self.metric} {recent[-1].smoothed:.4g} {relation} {self.threshold:g}"
            return Ending(f"{told} after {counted(epoch, 'epoch')}")
        limit = self.max_epochs or epochs
        if epoch >= limit:
            last = f"{recent[-1].smoothed:.4g}" if recent else "never logged"
            told = f"{self.metric} {last}, not {self.mode} {self.threshold:g}"
            return Ending(f"{counted(limit, 'epoch')} with {told}", limit=True)
        return None


@hookimpl
def fluxflow_register_transitions(register: Register) -> None:
    """Register both criteria."""
    register("epoch", epoch)
    register("loss_threshold", LossThreshold)
