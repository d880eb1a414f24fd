"""What components keep between batches: saved, restored, and reset at the start of each step."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.contracts import Stateful
from fluxflow_registry.plan.steps import StepPlan


def stateful_of(step: StepPlan) -> dict[str, Stateful]:
    """The components of a step that keep state, by their names among its components."""
    return {name: part.instance for name, part in step.components.items() if isinstance(part.instance, Stateful)}


def served_by(name: str) -> str | None:
    """The update that the component of this name alone serves, or None."""
    kind, _, rest = name.partition(".")
    return rest.partition(".")[0] if kind == "loss" else None


class InitialState:
    """The state in which each component was built: every step starts with it, whatever was trained before."""

    def __init__(self, steps: Iterable[StepPlan]) -> None:
        stateful = {id(each): each for step in steps for each in stateful_of(step).values()}
        self._first = {key: copy.deepcopy(dict(each.state_dict())) for key, each in stateful.items()}

    def restore(self, step: StepPlan) -> None:
        """Reset the components of a step to the state in which they were built."""
        for instance in stateful_of(step).values():
            instance.load_state_dict(copy.deepcopy(self._first[id(instance)]))


class Guard:
    """Undoes the side effects of a skipped batch: on buffers, and on what components keep.

    `keeping` pairs components with the one update that they serve; None: they serve all.
    """

    def __init__(self, models: Mapping[str, nn.Module], keeping: Iterable[tuple[str | None, Any]]) -> None:
        # By their places: a module may put another tensor there instead of changing the one it has.
        self._places: list[tuple[dict[str, Tensor | None], str]] = [
            (module._buffers, name)
            for module in dict.fromkeys(module for model in models.values() for module in model.modules())
            for name in module._buffers
        ]
        self._copies: list[Tensor | None] = [None] * len(self._places)
        self._keeping = [(update, instance) for update, instance in keeping if isinstance(instance, Stateful)]
        self._states: list[Any] = []

    @torch.no_grad()
    def remember(self) -> None:
        """Remember the state before a batch, or a window of batches."""
        for number, (buffers, name) in enumerate(self._places):
            self._copies[number] = _copied(buffers[name], self._copies[number])
        self._states = [copy.deepcopy(instance.state_dict()) for _, instance in self._keeping]

    @torch.no_grad()
    def undo(self, updates: Collection[str]) -> None:
        """Restore what was remembered, except for what serves only other updates than these."""
        for copied, (buffers, name) in zip(self._copies, self._places, strict=True):
            buffers[name] = _copied(copied, buffers[name])
        for (update, instance), state in zip(self._keeping, self._states, strict=True):
            if update is None or update in updates:
                instance.load_state_dict(state)


def _copied(source: Tensor | None, target: Tensor | None) -> Tensor | None:
    """`source` in the memory of `target`, where it fits there."""
    if source is None or target is None or target is source:
        return None if source is None else source.clone()
    if target.shape != source.shape or target.dtype != source.dtype or target.device != source.device:
        return source.clone()
    return target.copy_(source)
