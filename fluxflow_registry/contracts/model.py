"""Models: what builds the networks of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from attrs import frozen

from fluxflow_registry.contracts.kind import Kind

if TYPE_CHECKING:
    from torch import nn


class Model(Protocol):
    """A function, or a class whose options are the architecture and whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Build a new module; `weights`, where requested, is the state dict that will be loaded into it, or None."""


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
    """The keys of a model's entry that belong to the recipe: they change its speed and memory, not what it is."""

    compile: bool | Compile = False
    """Compile the forward at its first call; a mapping sets the compiler's options."""
    channels_last: bool = False
    """Keep weights of convolutions, and so what they compute, in memory with the channels last."""
    checkpointing: bool = False
    """Keep only the inputs of repeated blocks for the backward pass, and compute the rest a second time."""


MODEL = Kind("model", "models", "an nn.Module", Model, settings=ModelSettings, parameters=("weights",), key="{name}")
