"""Models: what builds the networks of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from attrs import frozen

from fluxflow_registry.contracts.kind import Extras, Kind

if TYPE_CHECKING:
    from torch import nn


class Model(Protocol):
    """A function, or a class whose options are the architecture and whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Build a new module; `weights`, where requested, is the state dict that will be loaded into it, or None."""


class ModelExtras(Extras):
    """Optional members of a model."""

    trained_elsewhere: ClassVar[bool] = False
    """Whether its weights were trained before: a step may use them although no step of the recipe trains the model."""


@frozen
class Compile:
    """How a model's forward is compiled: the options of `torch.compile`."""

    backend: str = "inductor"
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    dynamic: bool | None = None
    """Whether one compiled form serves all shapes; null: from the second shape on."""
    fullgraph: bool = False
    """Whether a part that cannot be compiled is an error rather than a slower run."""


@frozen
class ModelSettings:
    """The keys of a model's entry that belong to the recipe: its speed, its memory, how it may be used."""

    compile: bool | Compile = False
    """Compile the forward at its first call; a mapping sets the compiler's options."""
    channels_last: bool = False
    """Keep weights of convolutions, and so what they compute, in memory with the channels last."""
    checkpointing: bool = False
    """Keep only the inputs of repeated blocks for the backward pass, and compute the rest a second time."""
    # Null and not false: without the key an effective recipe is the one that earlier versions wrote.
    untrained: bool | None = None
    """Let steps use it with its random weights, although no step has trained it; null: they are rejected."""


MODEL = Kind(
    "model", "models", "an nn.Module", Model, ModelExtras, ModelSettings, parameters=("weights",), key="{name}"
)
