"""A FluxFlow configuration as it was read: settings beside the places at which the file states them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from attrs import Factory, frozen

from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.recipe.node import Node

from .options import DataKeys, DatasetKeys, ModelKeys, OutputKeys, StepKeys, TransitionKeys

T = TypeVar("T")


@frozen(eq=False)
class Section(Generic[T]):
    """Some keys of the file: what they are, and where each is stated."""

    settings: T
    node: Node

    def stated(self, key: str) -> bool:
        """Whether the file states the key."""
        return self.node.get(key) is not None

    def where(self, key: str) -> Location | str:
        """The place of a key's value; for one that the file does not state, whose default it is."""
        node = self.node.get(key)
        return node.where if node is not None else f"FluxFlow's default of {key}"


@frozen(eq=False)
class Step:
    """A step: its settings, those of the levels above it included."""

    name: str
    keys: Section[StepKeys]
    #: What the step itself states.
    own: Node
    transition: Section[TransitionKeys]
    #: For each optimizer and each scheduler, its name and its entry.
    optimizers: Mapping[str, Node]
    schedulers: Mapping[str, Node]
    #: The models that `freeze` names and `unfreeze` does not.
    frozen_models: tuple[str, ...]
    #: The dataset's name.
    dataset: str
    #: Settings whose place may also be the dataset.
    batch_size: Node
    workers: Node
    #: Where the step stands: its name.
    where: Location | str

    @property
    def settings(self) -> StepKeys:
        """What holds in the step."""
        return self.keys.settings

    @property
    def flow(self) -> bool:
        """Whether a flow processor learns."""
        return self.settings.train_diff or self.settings.train_diff_full

    @property
    def autoencoder(self) -> bool:
        """Whether compressor or expander learn."""
        return self.settings.train_vae or self.settings.gan_training

    def trains(self, *models: str) -> tuple[str, ...]:
        """Those of the models that are not frozen."""
        return tuple(model for model in models if model not in self.frozen_models)

    def states(self, key: str) -> bool:
        """Whether the step itself states the key, and not a level above it."""
        return self.own.get(key) is not None


@frozen(eq=False)
class Config:
    """A whole configuration file."""

    path: str
    #: The recipe's name.
    name: str
    #: Whether the file has a pipeline; otherwise its one step is made of `training`.
    pipeline: bool
    model: Section[ModelKeys]
    data: Section[DataKeys]
    datasets: Mapping[str, Section[DatasetKeys]]
    steps: tuple[Step, ...]
    output: Section[OutputKeys]
    #: What the user should know: keys that are not needed, models that are made, names that had to change.
    notes: tuple[Problem, ...] = Factory(tuple)
