"""Who listens to a run of a FluxFlow configuration: FluxFlow's names for metrics, its samples and its announcements."""

from __future__ import annotations

from collections.abc import Iterator

from fluxflow_registry.errors import Location, Problem

from .config import Config
from .draft import Piece, entry, mapping, said
from .metrics import METRICS, logged

#: Where a metric of ours has the name that FluxFlow gives to another: the weighted sums of the updates.
_SUMS = {"vae_loss": "vae_total", "flow_loss": "flow_total"}


def observers(config: Config, diagrams: bool) -> Piece:
    """The announcements, the metrics under FluxFlow's names, the samples, and the graphs where they are asked for."""
    where = config.steps[0].where
    told = {
        step.name: said(step.settings.description, step.keys.where("description"))
        for step in config.steps
        if step.settings.description
    }
    return entry(
        where,
        pipeline=entry(where, descriptions=mapping(where, dict(told)) if told else None),
        console=_shown(config, where),
        jsonl=_written(config, where),
        samples=_samples(config),
        graphs=entry("--generate_diagrams" if diagrams else config.output.where("generate_diagrams"))
        if diagrams or config.output.settings.generate_diagrams
        else None,
    )


def _known(config: Config) -> set[str]:
    return {name for step in config.steps for name in logged(step)}


def _shown(config: Config, where: Location | str) -> Piece | None:
    """FluxFlow's `VAE` is the reconstruction loss, not the weighted sum of all."""
    if "vae_loss" not in _known(config):
        return None
    names = {"vae/frequency": said("VAE", where), "vae_loss": said("total", where)}
    return entry(where, names=mapping(where, dict(names)))


def _written(config: Config, where: Location | str) -> Piece:
    known = _known(config)
    names = {METRICS[name]: said(name, where) for name in METRICS if name in known}
    names |= {ours: said(other, where) for ours, other in _SUMS.items() if ours in known}
    return entry(where, names=mapping(where, dict(names)))


def _samples(config: Config) -> Piece | None:
    """Pictures at each n-th checkpoint: of the data, of the listed files, and for the listed captions."""
    output, settings = config.output, config.output.settings
    if settings.no_samples:
        return None
    first = next((step for step in config.steps if step.autoencoder), None)
    files, prompts = _files(config), _prompts(config)
    if first is None and not (files or prompts):
        return None
    every = output.where("samples_per_checkpoint")
    sizes = settings.sample_sizes if files or prompts else None
    return entry(
        every,
        dataset=said(first.dataset, first.where) if first is not None else None,
        images=said(files, output.where("test_image_address")) if files else None,
        prompts=said(prompts, output.where("sample_captions")) if prompts else None,
        sizes=_sizes(config, sizes or [config.data.settings.img_size]) if sizes or files else None,
        every_batches=said(settings.checkpoint_save_interval * settings.samples_per_checkpoint, every),
    )


def _files(config: Config) -> list[str]:
    return list(config.output.settings.test_image_address) if any(step.autoencoder for step in config.steps) else []


def _prompts(config: Config) -> list[str]:
    return list(config.output.settings.sample_captions) if any(step.flow for step in config.steps) else []


def _sizes(config: Config, sizes: list[int | list[int]]) -> Piece:
    where = (
        config.output.where("sample_sizes") if config.output.stated("sample_sizes") else config.data.where("img_size")
    )
    return Piece([said(size, where) for size in sizes], where, {})


def idle_samples(config: Config) -> Iterator[Problem]:
    """Sizes of pictures that are not drawn."""
    output = config.output
    if output.settings.sample_sizes and not output.settings.no_samples and not (_files(config) or _prompts(config)):
        message = "`sample_sizes` has nothing to do: they are sizes of `sample_captions` and `test_image_address`"
        yield Problem(message, output.where("sample_sizes"))
