"""Transitions that monitor one metric."""

from __future__ import annotations

from typing import Literal

from attrs import evolve, field, frozen, validators

from fluxflow_registry import Better, Ending, History, counted

from .criteria import limit_reached, max_epochs_field, min_epochs_field, mode_of, plateau_reached, threshold_passed


@frozen
class LossThreshold:
    """Ends when a metric, smoothed over its last 20 logged values, is below (or above) a threshold.

    It must be so at the end of `patience` consecutive epochs, after at least `min_epochs`; after
    `max_epochs` the step ends in any case, with a warning.
    """

    metric: str
    """A metric that the step logs, such as `vae_loss` or `vae/kl`, or `<evaluation>/<metric>`."""
    threshold: float
    """The value that the metric must pass."""
    mode: Literal["below", "above"] | None = None
    """The side of the threshold on which the step ends; null: below for losses, above if higher is better."""
    patience: int = field(default=1, validator=validators.ge(1))
    """Number of consecutive epochs for which the condition must hold."""
    min_epochs: int = min_epochs_field()
    """Epochs before which the step does not end."""
    max_epochs: int | None = max_epochs_field()
    """Safety limit; null: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The monitored metric."""
        return [self.metric]

    def directed(self, better: Better) -> LossThreshold:
        """The same options with `mode` set to the direction of the metric."""
        return self if self.mode else evolve(self, mode="below" if better(self.metric) == "lower" else "above")

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the condition has held for long enough, or at the limit."""
        known = history.get(self.metric, ())
        reason = threshold_passed(self.metric, known, self.threshold, self.mode != "above", self.patience)
        if epoch >= self.min_epochs and reason:
            return Ending(f"{reason} after {counted(epoch, 'epoch')}")
        last = f"{known[-1].smoothed:.4g}" if known else "never logged"
        state = f"with {self.metric} {last}, not {self.mode or 'below'} {self.threshold:g}"
        return limit_reached(epoch, self.max_epochs or epochs, state)


@frozen
class Plateau:
    """Ends when the mean of a metric over an epoch has not improved for `patience` epochs.

    An epoch improves on the best b so far if its mean is better by more than min_delta, or by more than
    min_delta |b| if `relative`. After `max_epochs` the step ends in any case, with a warning.
    """

    metric: str
    """A metric that the step logs, such as `vae_loss` or `vae/kl`, or `<evaluation>/<metric>`."""
    patience: int = field(default=5, validator=validators.ge(1))
    """Epochs without an improvement after which the step ends."""
    min_delta: float = field(default=0.0, validator=validators.ge(0))
    """The difference that an improvement must exceed."""
    relative: bool = False
    """Whether min_delta is a share of the best value so far."""
    mode: Literal["min", "max"] | None = None
    """Whether lower (min) or higher (max) is better; null: as the metric defines it, min for losses."""
    min_epochs: int = min_epochs_field()
    """Epochs before which the step does not end."""
    max_epochs: int | None = max_epochs_field()
    """Safety limit; null: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The monitored metric."""
        return [self.metric]

    def directed(self, better: Better) -> Plateau:
        """The same options with `mode` set to the direction of the metric."""
        return self if self.mode else evolve(self, mode=mode_of(better, self.metric))

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the metric has not improved for long enough, or at the limit."""
        known = history.get(self.metric, ())
        reason = plateau_reached(self.metric, known, self.patience, self.min_delta, self.relative, self.mode)
        if epoch >= self.min_epochs and reason:
            return Ending(reason)
        last = f"{known[-1].mean:.4g}, not on a plateau" if known else "never logged"
        return limit_reached(epoch, self.max_epochs or epochs, f"with {self.metric} {last}")
