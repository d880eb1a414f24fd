"""The models of a FluxFlow configuration, whose files set sizes and never declare models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from fluxflow_registry import Location, Problem
from fluxflow_registry.commands import Node, as_node

from ..config.config import Config, Step
from ..config.rules import DOWNSCALE, PATCH
from ..config.trained import aligns, trains_flow, uses_spade
from .nodes import component, entry

#: Blocks of the transformers.
TEXT_DEPTH, FLOW_DEPTH = 4, 12

#: The key of `model` that determines the size of each model.
SIZES = {
    "compressor": "vae_dim",
    "expander": "vae_dim",
    "discriminator": "vae_dim",
    "text_encoder": "text_embedding_dim",
    "flow_processor": "feature_maps_dim",
}


def models(config: Config) -> Node:
    """Every model that some step trains or uses."""
    built = {name: _BUILDERS[name](config, step.where) for name, step in required_models(config).items()}
    return entry(config.model.node.where, **built)


def required_models(config: Config) -> dict[str, Step]:
    """Each model that is required, and the first step that requires it."""
    found: dict[str, Step] = {}
    for step in config.steps:
        names = ["compressor", "expander"]
        names += ["discriminator"] if step.settings.gan_training else []
        names += ["text_encoder", "flow_processor"] if trains_flow(step) else []
        names += ["projection"] if aligns(step) else []
        for name in names:
            found.setdefault(name, step)
    return found


def auto_created(config: Config) -> Iterator[Problem]:
    """A note for each model whose size the file does not set."""
    for name, step in required_models(config).items():
        key = SIZES.get(name)
        if key is not None and not config.model.sets(key):
            message = f"Auto-created {name} with {key}={getattr(config.model.settings, key)}"
            yield Problem(message, step.where, code="auto-created", subject=name)


def _autoencoder(config: Config, where: Location, type_: str) -> Node:
    model = config.model
    spade = next((step.keys.where("train_spade") for step in config.steps if uses_spade(step)), None)
    return component(
        type_,
        where,
        latent_channels=model.value("vae_dim"),
        width=_half_of_latent(config),
        downscale=DOWNSCALE,
        activation=model.value("model_type" if model.settings.model_type == "bezier" else "baseline_activation"),
        spade=as_node(True, spade) if spade and type_ == "expander" else None,
        checkpointing=_checkpointing(config),
    )


def _half_of_latent(config: Config) -> Node:
    """The width of autoencoder and discriminator: half the channels of the latent, at least 8."""
    return as_node(max(config.model.settings.vae_dim // 2, 8), config.model.where("vae_dim"))


def _checkpointing(config: Config) -> Node | None:
    key = "use_gradient_checkpointing"
    return config.model.value(key) if config.model.settings.use_gradient_checkpointing else None


def _discriminator(config: Config, where: Location) -> Node:
    width = config.model.value("feature_maps_dim_disc") or _half_of_latent(config)
    return component("patch_discriminator", where, width=width)


def _text_encoder(config: Config, where: Location) -> Node:
    model = config.model
    pretrained = model.value("pretrained_bert_model")
    if pretrained is not None:
        return component("pretrained_text_encoder", where, name=pretrained)
    width = model.settings.text_embedding_dim
    heads = as_node(heads_of(width), model.where("text_embedding_dim"))
    return component("text_transformer", where, width=model.value("text_embedding_dim"), depth=TEXT_DEPTH, heads=heads)


def _flow_processor(config: Config, where: Location) -> Node:
    model = config.model
    return component(
        "flow_transformer",
        where,
        latent_channels=model.value("vae_dim"),
        width=model.value("feature_maps_dim"),
        depth=FLOW_DEPTH,
        heads=as_node(heads_of(model.settings.feature_maps_dim), model.where("feature_maps_dim")),
        patch=PATCH,
        text_width=model.value("text_embedding_dim"),
        checkpointing=_checkpointing(config),
    )


def _projection(config: Config, where: Location) -> Node:
    """Between latent and text, which have different widths."""
    widths = {"width_in": config.model.value("vae_dim"), "width_out": config.model.value("text_embedding_dim")}
    return component("projection", where, **widths)


def heads_of(width: int) -> int:
    """Attention heads of at least 32 channels each, as many as divide the width."""
    return max(count for count in range(1, max(width // 32, 1) + 1) if width % count == 0)


_BUILDERS: Mapping[str, Callable[[Config, Location], Node]] = {
    "compressor": partial(_autoencoder, type_="compressor"),
    "expander": partial(_autoencoder, type_="expander"),
    "discriminator": _discriminator,
    "text_encoder": _text_encoder,
    "flow_processor": _flow_processor,
    "projection": _projection,
}
