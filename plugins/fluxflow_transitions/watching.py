"""Transitions that watch one metric."""

from __future__ import annotations

from typing import Literal

from attrs import evolve, field, frozen, validators

from fluxflow_registry import Better, Ending, History, counted
from fluxflow_transitions.criteria import least_epochs, limited, mode_of, most_epochs, passed, progress


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
    mode: Literal["below", "above"] | None = None
    """On which side of it the step ends; null: below for losses, above for metrics of which more is better."""
    patience: int = field(default=1, validator=validators.ge(1))
    """Epochs in a row for which it must hold."""
    min_epochs: int = least_epochs()
    """Epochs before which the threshold ends nothing."""
    max_epochs: int | None = most_epochs()
    """Safety limit; None: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The metric that is watched."""
        return [self.metric]

    def directed(self, better: Better) -> LossThreshold:
        """With the side on which the metric is better."""
        return self if self.mode else evolve(self, mode="below" if better(self.metric) == "lower" else "above")

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when the threshold has held long enough, or the limit is reached."""
        known = history.get(self.metric, ())
        below = self.mode != "above"
        if epoch >= self.min_epochs and passed(known, self.threshold, below, self.patience):
            told = f"{self.metric} {known[-1].smoothed:.4g} {'<' if below else '>'} {self.threshold:g}"
            return Ending(f"{told} after {counted(epoch, 'epoch')}")
        last = f"{known[-1].smoothed:.4g}" if known else "never logged"
        told = f"with {self.metric} {last}, not {self.mode or 'below'} {self.threshold:g}"
        return limited(epoch, self.max_epochs or epochs, told)


@frozen
class Plateau:
    """Ends when the mean of a metric over an epoch has not improved for `patience` epochs.

    An epoch improves on the best b so far where its mean is better by more than min_delta, or by more than
    min_delta |b| if that is `relative`. After `max_epochs` the step ends all the same, with a warning.
    """

    metric: str
    """A metric that the step logs, such as `vae_loss` or `vae/kl`, or `<evaluation>/<metric>`."""
    patience: int = field(default=5, validator=validators.ge(1))
    """Epochs without an improvement after which the step ends."""
    min_delta: float = field(default=0.0, validator=validators.ge(0))
    """What must be exceeded to be an improvement."""
    relative: bool = False
    """Whether min_delta is a share of the best value so far."""
    mode: Literal["min", "max"] | None = None
    """What is better; null: as the metric says, min for losses."""
    min_epochs: int = least_epochs()
    """Epochs before which a plateau ends nothing."""
    max_epochs: int | None = most_epochs()
    """Safety limit; None: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The metric that is watched."""
        return [self.metric]

    def directed(self, better: Better) -> Plateau:
        """With what is better of the metric."""
        return self if self.mode else evolve(self, mode=mode_of(better, self.metric))

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when nothing has been gained for long enough, or the limit is reached."""
        known = history.get(self.metric, ())
        best, waited = progress(known, self.min_delta, self.relative, self.mode != "max")
        if epoch >= self.min_epochs and waited >= self.patience:
            return Ending(f"{self.metric} no better than {best:.4g} for {counted(waited, 'epoch')}")
        last = f"{known[-1].mean:.4g}, not on a plateau" if known else "never logged"
        return limited(epoch, self.max_epochs or epochs, f"with {self.metric} {last}")
