"""A FluxFlow configuration as it was read: settings, each with its location in the file, and what each step trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from attrs import Factory, frozen

from fluxflow_registry import Default, Location, Problem
from fluxflow_registry.commands import Node, as_node

from .keys import DataKeys, DatasetKeys, ModelKeys, OutputKeys, StepKeys, TransitionKeys

T = TypeVar("T")

#: The name in the recipe of each metric that FluxFlow writes to its files.
METRICS = {
    "vae_loss": "vae/frequency",
    "kl_loss": "vae/kl",
    "lpips_loss": "vae/lpips",
    "g_loss": "vae/hinge_generator",
    "d_loss": "discriminator_loss",
    "flow_loss": "flow/velocity",
}

#: Those that a transition may watch, and their other names there.
WATCHED = ("vae_loss", "kl_loss", "lpips_loss", "flow_loss", "g_loss", "d_loss")
METRIC_SYNONYMS = {
    **dict.fromkeys(("vae", "recon", "recon_loss"), "vae_loss"),
    "kl": "kl_loss",
    "lpips": "lpips_loss",
    "flow": "flow_loss",
    "generator": "g_loss",
    "discriminator": "d_loss",
}


def default_of(key: str) -> Default:
    """The location of a value that the file does not set."""
    return Default(f"FluxFlow's default of {key}")


@frozen(eq=False)
class Section(Generic[T]):
    """A mapping of the file: its settings, and where each is set."""

    settings: T
    node: Node
    #: Keys whose values are wrong or misspelled: nothing follows from their defaults.
    unread: frozenset[str] = frozenset()

    def sets(self, key: str) -> bool:
        """Whether the file sets the key."""
        return self.node.get(key) is not None

    def where(self, key: str) -> Location:
        """The location of a key's value; if the file does not set it, FluxFlow's default."""
        node = self.node.get(key)
        return node.where if node is not None else default_of(key)

    def value(self, key: str) -> Node | None:
        """The value of a key with its location, for use in a recipe; None if it is null."""
        value = getattr(self.settings, key)
        return as_node(value, self.where(key)) if value is not None else None


# More than a dozen members: one attribute for each part of a step.
@frozen(eq=False)
class Step:
    """A step: its settings, including those of the levels above it."""

    name: str
    #: Where the file names it.
    where: Location
    keys: Section[StepKeys]
    #: The mapping of the step itself, without the levels above it.
    own: Node
    transition: Section[TransitionKeys]
    #: For each optimizer and each scheduler, its name and its entry.
    optimizers: Mapping[str, Node]
    schedulers: Mapping[str, Node]
    #: The models in `freeze` that are not in `unfreeze`.
    frozen_models: tuple[str, ...]
    #: The dataset's name.
    dataset: str
    #: Settings that the dataset may have too.
    batch_size: Node
    workers: Node
    #: Whether it is the only step of a file without a pipeline, for which FluxFlow has other defaults.
    flat: bool

    @property
    def settings(self) -> StepKeys:
        """The settings of the step."""
        return self.keys.settings


@frozen(eq=False)
class Config:
    """A whole configuration file."""

    path: str
    #: The recipe's name.
    name: str
    model: Section[ModelKeys]
    data: Section[DataKeys]
    datasets: Mapping[str, Section[DatasetKeys]]
    steps: tuple[Step, ...]
    output: Section[OutputKeys]
    #: What the user should know: keys that are not needed, names that had to change.
    notes: tuple[Problem, ...] = Factory(tuple)
    #: What is wrong with it: defaults stand in for what cannot be read.
    problems: tuple[Problem, ...] = Factory(tuple)

    def side_of(self, dataset: str) -> int:
        """The side of a dataset's images in pixels."""
        return self.datasets[dataset].settings.img_size or self.data.settings.img_size


def trains_autoencoder(step: Step) -> bool:
    """Whether compressor or expander are trained."""
    return step.settings.train_vae or step.settings.gan_training


def trains_flow(step: Step) -> bool:
    """Whether a flow processor is trained."""
    return step.settings.train_diff or step.settings.train_diff_full


def aligns(step: Step) -> bool:
    """Whether images and captions are aligned."""
    return trains_flow(step) and step.settings.lambda_align > 0


def uses_spade(step: Step) -> bool:
    """Whether the expander is conditioned on the spatial context."""
    return step.settings.train_spade and trains_autoencoder(step)


def uses_lpips(step: Step) -> bool:
    """Whether LPIPS is computed, for which an image has to be reconstructed."""
    return step.settings.use_lpips and step.settings.train_vae


def unfrozen(step: Step, *models: str) -> tuple[str, ...]:
    """Those of the models that are not frozen."""
    return tuple(model for model in models if model not in step.frozen_models)


def trained_models(step: Step) -> dict[str, tuple[str, ...]]:
    """For each optimizer, the models that it trains."""
    autoencoder, flow = trains_autoencoder(step), trains_flow(step)
    return {
        "vae": unfrozen(step, "compressor", "expander") if autoencoder else (),
        "discriminator": unfrozen(step, "discriminator") if step.settings.gan_training else (),
        "flow": unfrozen(step, "flow_processor") if flow else (),
        "text_encoder": unfrozen(step, "text_encoder") if flow else (),
    }


def logged_metrics(step: Step) -> dict[str, str]:
    """Those of FluxFlow's metrics that a step logs, each with its name in the recipe."""
    logged = {
        "vae_loss": step.settings.train_vae,
        "lpips_loss": uses_lpips(step),
        "kl_loss": trains_autoencoder(step) and "compressor" not in step.frozen_models,
        "d_loss": step.settings.gan_training,
        "g_loss": step.settings.gan_training,
        "flow_loss": trains_flow(step),
    }
    return {name: METRICS[name] for name, is_logged in logged.items() if is_logged}


def watched_metric(step: Step) -> str | None:
    """The metric that the step's transition watches, by the name that FluxFlow's files have for it."""
    metric = step.transition.settings.metric
    return METRIC_SYNONYMS.get(metric, metric) if metric is not None else None
