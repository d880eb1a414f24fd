"""A little world of components, with everything in it that a plan refuses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from attrs import field, frozen

from fluxflow_registry.contracts import Draw, Field
from fluxflow_registry.errors import Place
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.registry.registry import Component, Plugin
from fluxflow_registry.registry.signature import Signature

RECIPE = """
recipe: 1
models:
  encoder: build
  critic: build
datasets:
  data: data
steps:
  step:
    dataset: data
    updates:
      turn:
        trains: [encoder]
        losses:
          distance: {}
        optimizer: sgd
"""


class Module:
    """Stands for nn.Module in annotations."""


def build() -> Any:
    """A model."""


def sgd(parameters: Any) -> Any:
    """An optimizer."""


class Data:
    """A dataset with one field."""

    def fields(self) -> dict[str, Field]:
        return {"image": Field((1,))}

    def __call__(self) -> Any:
        """Open it."""


def code(image: Any, encoder: Module) -> Any:
    """What the encoder says."""


def score(code: Any, critic: Module) -> Any:
    """What the critic says of it."""


def distance(code: Any, image: Any) -> Any:
    """A loss of the code."""


def badness(score: Any) -> Any:
    """A loss of the score."""


def far(missing_value: Any) -> Any:
    """A value that needs what nobody provides."""


def farther(far: Any) -> Any:
    """A value that needs it in turn."""


def lost(farther: Any) -> Any:
    """A loss that needs it in the end."""


def teacher_code(image: Any, teacher: Module) -> Any:
    """A value of a model that the recipe may not have."""


def distill(teacher_code: Any, code: Any) -> Any:
    """A loss between two codes."""


def egg(hen: Any) -> Any:
    """Needs a hen."""


def hen(egg: Any) -> Any:
    """Needs an egg."""


def breakfast(egg: Any) -> Any:
    """A loss of the egg."""


def flat(image: Any) -> Any:
    """A loss that depends on no model."""


def accuracy(score: Any, label: Any) -> Any:
    """A metric that needs a field."""


@frozen
class Scaled:
    """A value with an option that the recipe must state."""

    scale: float = field()

    def __call__(self, code: Any) -> Any:
        """Scale it."""


def scaled_size(scaled: Any) -> Any:
    """A loss of the scaled code."""


@frozen
class Painter:
    """An observer that wants values drawn."""

    what: str = "code"
    where: str = "data"
    steps: list[str] = field(factory=list)
    if_possible: list[str] = field(factory=list)

    def draws(self) -> list[Draw]:
        optional = tuple(self.if_possible)
        return [Draw((self.what,), dataset=self.where, steps=tuple(self.steps), optional=optional)]


VALUES = {v.__name__: v for v in (code, score, far, farther, teacher_code, egg, hen)} | {"scaled": Scaled}
LOSSES = {f.__name__: f for f in (distance, badness, lost, distill, breakfast, flat, scaled_size)}


def made_up(name: str, needs: Sequence[str], models: Collection[str] = ()) -> ConfiguredComponent:
    """A component of which only the needs matter."""
    signature = Signature(tuple(needs), frozenset(set(needs) & set(models)), Place("made_up.py", 1), f"def {name}()")
    component = Component("value", name, None, signature, Plugin("made_up", "test", "1", "made_up"))
    return ConfiguredComponent(name, component, None, Place("r.yaml", 1, 1))
