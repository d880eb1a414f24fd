"""The recipe as frozen classes: exactly the keys that a file may have, their types and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen, validators

from fluxflow_registry.contracts.kind import Renaming
from fluxflow_registry.errors import Location
from fluxflow_registry.recipe.node import Node

#: Metrics that are logged of an update besides its losses, each as `<update>/<metric>`.
UPDATE_METRICS = {"grad_norm", "lr"}

#: The key of the update itself where a mapping has an entry for it and for each of its losses by label.
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
    #: Whether the smallest or the largest value is best; None: as the metric declares, the smallest for a loss.
    mode: Literal["min", "max"] | None = None


# More than a dozen members: one attribute for each key of a step.
@frozen
class StepSettings:
    """The keys of a step that are plain settings."""

    dataset: str
    after: str | None = None
    batch_size: int = field(default=16, validator=validators.ge(1))
    workers: int = field(default=0, validator=[validators.ge(0), validators.le(1024)])
    epochs: int = field(default=1, validator=validators.ge(1))
    #: Batches of one epoch at most; None: as many as the dataset has.
    max_steps: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    #: Batches whose gradients are averaged before an optimizer steps.
    accumulate: int = field(default=1, validator=validators.ge(1))
    log_every: int = field(default=20, validator=validators.ge(1))
    checkpoint_every: int = field(default=1000, validator=validators.ge(1))
    #: How many of them are kept, besides the best one and the end of each step.
    keep_checkpoints: int = field(default=2, validator=validators.ge(1))
    best: Best | None = None
    ema: Ema | None = None


@frozen
class UpdateSettings:
    """The keys of an update that are plain settings."""

    trains: list[str]
    clip_grad_norm: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    #: Batches of the step before it runs first; a condition instead of a number is in `UpdateEntry.starts`.
    start: int = field(default=0, validator=validators.ge(0))


@frozen
class EvaluationSettings:
    """The plain settings of a named evaluation of a step."""

    dataset: str
    samples: int = field(default=256, validator=validators.ge(1))
    batch_size: int = field(default=64, validator=validators.ge(1))
    #: After every n-th epoch; None: only at the end of the step, where it always runs.
    every: int | None = field(default=None, validator=validators.optional(validators.ge(1)))


@frozen(eq=False)
class ComponentEntry:
    """A component that the recipe uses: its label, its type, and its own options."""

    label: str
    type: str
    #: The location of its type (the label where there is no `type`).
    where: Location
    options: Node
    settings: Any
    node: Node

    @property
    def renames(self) -> Mapping[str, str]:
        """For each parameter of the component that `with` renames, the name of the value that fills it."""
        return self.settings.with_ if isinstance(self.settings, Renaming) else {}


@frozen(eq=False)
class EvaluationEntry:
    """Metrics over samples of one dataset, under one name."""

    name: str
    settings: EvaluationSettings
    metrics: dict[str, ComponentEntry]
    node: Node


@frozen(eq=False)
class UpdateEntry:
    """What one optimizer does on a batch: the models that it trains and the losses that it minimizes."""

    name: str
    settings: UpdateSettings
    losses: dict[str, ComponentEntry]
    optimizer: ComponentEntry | None
    scheduler: ComponentEntry | None
    balancer: ComponentEntry | None
    #: The conditions on which losses start, by label, and under OWN the one on which the update starts.
    starts: dict[str, ComponentEntry]
    node: Node
    #: Whether a part of it could not be read, so that nothing follows from what is missing.
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
    #: None for an observer that joins by default and that the recipe removes.
    observers: dict[str, ComponentEntry | None]
    steps: dict[str, StepEntry]
    path: str
    node: Node
    #: Parts of the recipe that could not be read in full, so that nothing follows from what is missing in them.
    unread: frozenset[str] = frozenset()
