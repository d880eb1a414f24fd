"""The recipe as frozen classes: exactly the keys that a file may have, their types and defaults."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from fluxflow_registry.errors import Location
from fluxflow_registry.recipe.node import Node

#: What is logged of an update beside its losses, each as `<update>/<figure>`.
FIGURES = {"grad_norm", "lr"}

#: In what holds for an update and for each of its losses by label: the update itself.
OWN = ""

#: The version of the recipe language that this framework reads.
VERSION = 1


@frozen
class RecipeSettings:
    """The keys of a recipe that are plain settings."""

    recipe: int = VERSION
    name: str = "recipe"
    seed: int = field(default=0, validator=validators.ge(0))


@frozen
class Ema:
    """Exponential moving average of some models: w <- d w + (1 - d) theta, d rising to `decay`."""

    models: list[str]
    decay: float = field(default=0.9999, validator=[validators.ge(0), validators.lt(1)])
    #: d_n = min(decay, (1 + n) / (10 + n)) after n batches, so that early weights are soon forgotten.
    warmup: bool = True


@frozen
class Best:
    """The checkpoint that is kept because a metric was better there than after any other epoch."""

    #: Any metric that is logged or evaluated, such as `vae_loss` or `autoencoder/psnr`.
    metric: str
    #: Whether the least or the greatest is the best; None: as the metric says, the least of a loss.
    mode: Literal["min", "max"] | None = None


# More than a dozen members: one attribute for each key of a step.
@frozen
class StepSettings:
    """The keys of a step that are plain settings."""

    dataset: str
    after: str | None = None
    batch_size: int = field(default=16, validator=validators.ge(1))
    workers: int = field(default=0, validator=validators.ge(0))
    epochs: int = field(default=1, validator=validators.ge(1))
    #: Batches of one epoch at most; None: as many as the dataset fills.
    max_steps: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    #: Batches whose gradients are averaged before an optimizer steps.
    accumulate: int = field(default=1, validator=validators.ge(1))
    log_every: int = field(default=20, validator=validators.ge(1))
    checkpoint_every: int = field(default=1000, validator=validators.ge(1))
    #: How many of them stay, beside the best one and the end of each step.
    keep_checkpoints: int = field(default=2, validator=validators.ge(1))
    best: Best | None = None
    ema: Ema | None = None


@frozen
class UpdateSettings:
    """The keys of an update that are plain settings."""

    trains: list[str]
    clip_grad_norm: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    #: Batches of the step before its first turn; a condition in its place stands in `Update.starts`.
    start: int = field(default=0, validator=validators.ge(0))


@frozen
class EvaluationSettings:
    """The plain settings of a named evaluation of a step."""

    dataset: str
    samples: int = field(default=256, validator=validators.ge(1))
    batch_size: int = field(default=64, validator=validators.ge(1))
    #: After each n-th epoch; None: at the step's end only, where it is always measured.
    every: int | None = field(default=None, validator=validators.optional(validators.ge(1)))


@frozen(eq=False)
class ComponentEntry:
    """A component that the recipe names: its label, its type, and the options that are its own."""

    label: str
    type: str
    #: Where the type is stated (the label itself when there is no `type`).
    where: Location
    options: Node
    settings: Any
    node: Node


@frozen(eq=False)
class EvaluationEntry:
    """Metrics over samples of one dataset, under one name."""

    name: str
    settings: EvaluationSettings
    metrics: dict[str, ComponentEntry]
    node: Node


@frozen(eq=False)
class UpdateEntry:
    """One optimizer's turn within a batch."""

    name: str
    settings: UpdateSettings
    losses: dict[str, ComponentEntry]
    optimizer: ComponentEntry | None
    scheduler: ComponentEntry | None
    balancer: ComponentEntry | None
    #: Conditions on which losses start, by label, and under OWN the one on which the update does.
    starts: dict[str, ComponentEntry]
    node: Node
    #: Whether some part of it could not be read, so that conclusions from what is missing are void.
    partial: bool = False


@frozen(eq=False)
class StepEntry:
    """A phase of training."""

    name: str
    parent: str | None
    settings: StepSettings
    updates: dict[str, UpdateEntry]
    until: ComponentEntry | None
    values: dict[str, ComponentEntry]
    evaluate: dict[str, EvaluationEntry]
    node: Node
    where: Location


@frozen(eq=False)
class RecipeEntry:
    """A whole recipe file."""

    name: str
    seed: int
    models: dict[str, ComponentEntry]
    datasets: dict[str, ComponentEntry]
    sampler: ComponentEntry | None
    values: dict[str, ComponentEntry]
    #: None for an observer that joins by default and that the recipe sends away.
    observers: dict[str, ComponentEntry | None]
    steps: dict[str, StepEntry]
    path: str
    node: Node
    #: Parts of the recipe that could not be read in full, so that conclusions from what is missing are void.
    unread: frozenset[str] = frozenset()
