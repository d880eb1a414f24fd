"""Transitions that ask for several conditions at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from attrs import evolve, field, frozen, validators

from fluxflow_registry import Better, Ending, History, counted
from fluxflow_transitions.criteria import least_epochs, limited, mode_of, most_epochs, passed, progress

#: For each criterion of a condition, the options that go with it.
_WITH = {
    "epochs": (),
    "below": ("metric", "patience"),
    "above": ("metric", "patience"),
    "plateau": ("metric", "min_delta", "relative", "mode"),
}


def _count() -> Any:
    return field(default=None, validator=validators.optional(validators.ge(1)))


@frozen
class Condition:
    """One thing that may hold after an epoch: `epochs`, or `below`, `above` or `plateau` of a metric."""

    epochs: int | None = _count()
    """So many epochs are done."""
    metric: str | None = None
    """The metric that the others are about."""
    below: float | None = None
    """Its last 20 values have a mean below this."""
    above: float | None = None
    """Its last 20 values have a mean above this."""
    patience: int | None = _count()
    """Epochs in a row for which that must be so; None: 1."""
    plateau: int | None = _count()
    """So many epochs have brought no improvement of its mean over an epoch."""
    min_delta: float | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """What must be exceeded to be an improvement; None: 0."""
    relative: bool | None = None
    """Whether min_delta is a share of the best value so far; None: no."""
    mode: Literal["min", "max"] | None = None
    """What is better; None: as the metric says, min for losses."""

    def fault(self) -> str | None:
        """What is wrong with what is stated together."""
        stated = [name for name in _WITH if getattr(self, name) is not None]
        if len(stated) != 1:
            found = f"not {' and '.join(stated)} together" if stated else "and states none"
            return f"states one of {', '.join(_WITH)}, {found}"
        (criterion,) = stated
        if criterion != "epochs" and self.metric is None:
            return f"needs the `metric` of which `{criterion}` speaks"
        others = {name for names in _WITH.values() for name in names} - set(_WITH[criterion])
        idle = sorted(name for name in others if getattr(self, name) is not None)
        return f"takes no `{idle[0]}` with `{criterion}`" if idle else None

    def directed(self, better: Better) -> Condition:
        """With what is better of the metric, where that matters."""
        if self.plateau is None or self.metric is None or self.mode:
            return self
        return evolve(self, mode=mode_of(better, self.metric))

    def held(self, epoch: int, history: History) -> str | None:
        """What holds after this epoch, in words, or None."""
        if self.metric is None:
            enough = self.epochs is not None and epoch >= self.epochs
            return counted(epoch, "epoch") if enough else None
        known = history.get(self.metric, ())
        if self.plateau is not None:
            best, waited = progress(known, self.min_delta or 0.0, bool(self.relative), self.mode != "max")
            told = f"{self.metric} no better than {best:.4g} for {counted(waited, 'epoch')}"
            return told if waited >= self.plateau else None
        below = self.below is not None
        threshold = self.below if self.below is not None else self.above
        assert threshold is not None  # see `fault`
        if not passed(known, threshold, below, self.patience or 1):
            return None
        return f"{self.metric} {known[-1].smoothed:.4g} {'<' if below else '>'} {threshold:g}"

    def __str__(self) -> str:
        """What is waited for, in words."""
        if self.metric is None:
            return counted(self.epochs or 0, "epoch")
        if self.plateau is not None:
            return f"a plateau of {self.metric}"
        return f"{self.metric} < {self.below:g}" if self.below is not None else f"{self.metric} > {self.above:g}"


def _sound(_: Any, __: Any, conditions: Sequence[Condition]) -> None:
    if not conditions:
        raise ValueError("conditions is empty: what is the step to wait for?")
    for number, condition in enumerate(conditions, 1):
        if (fault := condition.fault()) is not None:
            raise ValueError(f"condition {number} of {len(conditions)} {fault}")


def _metrics(conditions: Sequence[Condition]) -> list[str]:
    return list(dict.fromkeys(each.metric for each in conditions if each.metric is not None))


def _directed(conditions: Sequence[Condition], better: Better) -> list[Condition]:
    """The conditions, each with what is better of its metric."""
    return [condition.directed(better) for condition in conditions]


@frozen
class AllOf:
    """Ends when all conditions hold after the same epoch.

    After `max_epochs` the step ends all the same, with a warning that names what does not hold.
    """

    conditions: list[Condition] = field(validator=_sound)
    """Each has `epochs`, or a `metric` with `below` or `above` (patience) or `plateau` (min_delta, relative, mode)."""
    min_epochs: int = least_epochs()
    """Epochs before which the conditions end nothing."""
    max_epochs: int | None = most_epochs()
    """Safety limit; None: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The metrics that are watched."""
        return _metrics(self.conditions)

    def directed(self, better: Better) -> AllOf:
        """With what is better of each metric."""
        return evolve(self, conditions=_directed(self.conditions, better))

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End when nothing is left to wait for, or the limit is reached."""
        held = [condition.held(epoch, history) for condition in self.conditions]
        if epoch >= self.min_epochs and None not in held:
            return Ending(" and ".join(str(told) for told in held))
        left = [str(each) for each, told in zip(self.conditions, held, strict=True) if told is None]
        return limited(epoch, self.max_epochs or epochs, f"without {' and '.join(left) or 'the least epochs'}")


@frozen
class AnyOf:
    """Ends when one of the conditions holds.

    After `max_epochs` the step ends all the same, with a warning.
    """

    conditions: list[Condition] = field(validator=_sound)
    """Each has `epochs`, or a `metric` with `below` or `above` (patience) or `plateau` (min_delta, relative, mode)."""
    min_epochs: int = least_epochs()
    """Epochs before which the conditions end nothing."""
    max_epochs: int | None = most_epochs()
    """Safety limit; None: the step's own `epochs`."""

    def metrics(self) -> list[str]:
        """The metrics that are watched."""
        return _metrics(self.conditions)

    def directed(self, better: Better) -> AnyOf:
        """With what is better of each metric."""
        return evolve(self, conditions=_directed(self.conditions, better))

    def __call__(self, epoch: int, epochs: int, history: History) -> Ending | None:
        """End at the first condition that holds, or at the limit."""
        held = [told for each in self.conditions if (told := each.held(epoch, history)) is not None]
        if epoch >= self.min_epochs and held:
            return Ending(held[0])
        return limited(epoch, self.max_epochs or epochs, f"without {' or '.join(map(str, self.conditions))}")
