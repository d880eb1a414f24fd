"""The observers of a FluxFlow run: FluxFlow's names for metrics, its samples and its announcements."""

from __future__ import annotations

from collections.abc import Iterator

from fluxflow_registry import Flag, Problem
from fluxflow_registry.commands import Node, as_node

from ..config.config import METRICS, Config, logged_metrics, trains_autoencoder, trains_flow
from .recipe_text import entry

#: Metrics here that have a name which FluxFlow gives to another one: the weighted sums of the updates.
_SUMS = {"vae_loss": "vae_total", "flow_loss": "flow_total"}

#: FluxFlow's names for the losses that it adds to every reconstruction.
_COLORS = {"vae/color_statistics": "color_stats", "vae/histogram": "hist_loss", "vae/contrast": "contrast_loss"}


def observers(config: Config, diagrams: bool) -> Node:
    """The announcements, the metrics under FluxFlow's names, the samples, and the charts if requested."""
    where = config.steps[0].where
    descriptions = {step.name: step.keys.value("description") for step in config.steps if step.settings.description}
    charts = config.output.where("generate_diagrams") if config.output.settings.generate_diagrams else None
    charts = Flag("--generate_diagrams") if diagrams else charts
    logged = {name for step in config.steps for name in logged_metrics(step)}
    names = {METRICS[name]: name for name in METRICS if name in logged}
    updates = {"vae_loss": any(map(trains_autoencoder, config.steps)), "flow_loss": "flow_loss" in logged}
    names |= {ours: other for ours, other in _SUMS.items() if updates[ours]}
    names |= _COLORS if "vae_loss" in logged else {}
    # FluxFlow's `VAE` is the reconstruction loss, not the weighted sum of all.
    displayed = {"vae/frequency": "VAE"} if "vae_loss" in logged else {}
    displayed |= {"vae_loss": "total"} if updates["vae_loss"] else {}
    return entry(
        where,
        pipeline=entry(where, descriptions=descriptions or None),
        console=entry(where, names=displayed) if displayed else None,
        jsonl=entry(where, names=names),
        samples=_samples(config),
        graphs=entry(charts) if charts is not None else None,
    )


def _samples(config: Config) -> Node | None:
    """Samples at every n-th checkpoint: of the dataset, of the listed files, and for the listed captions."""
    output, settings = config.output, config.output.settings
    if settings.no_samples:
        return None
    first = next((step for step in config.steps if trains_autoencoder(step)), None)
    files, prompts = _files(config), _prompts(config)
    if first is None and not (files or prompts):
        return None
    every = output.where("samples_per_checkpoint")
    return entry(
        every,
        dataset=as_node(first.dataset, first.where) if first is not None else None,
        images=files,
        prompts=prompts,
        sizes=_sizes(config) if files or (prompts and settings.sample_sizes) else None,
        every_batches=settings.checkpoint_save_interval * settings.samples_per_checkpoint,
    )


def _files(config: Config) -> Node | None:
    wanted = config.output.settings.test_image_address and any(map(trains_autoencoder, config.steps))
    return config.output.value("test_image_address") if wanted else None


def _prompts(config: Config) -> Node | None:
    wanted = config.output.settings.sample_captions and any(map(trains_flow, config.steps))
    return config.output.value("sample_captions") if wanted else None


def _sizes(config: Config) -> Node:
    own = config.output.settings.sample_sizes
    where = config.output.where("sample_sizes") if config.output.sets("sample_sizes") else config.data.where("img_size")
    return as_node(own or [config.data.settings.img_size], where)


def idle_samples(config: Config) -> Iterator[Problem]:
    """A note on sizes of samples that are never written."""
    output = config.output
    if output.settings.sample_sizes and not output.settings.no_samples and not (_files(config) or _prompts(config)):
        message = "`sample_sizes` has no effect: it sets the sizes for `sample_captions` and `test_image_address`"
        yield Problem(message, output.where("sample_sizes"), code="unused", subject="sample_sizes")
