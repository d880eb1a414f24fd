"""The models of a FluxFlow configuration, which its files size and never declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.recipe.node import Node

from .config import Config, Step
from .draft import Piece, component, mapping, said
from .rules import DOWNSCALE, PATCH

#: Blocks of the transformers.
TEXT_DEPTH, FLOW_DEPTH = 4, 12

#: The key of `model` from which each model's size follows.
SIZES = {
    "compressor": "vae_dim",
    "expander": "vae_dim",
    "discriminator": "vae_dim",
    "text_encoder": "text_embedding_dim",
    "flow_processor": "feature_maps_dim",
}


def models(config: Config) -> Piece:
    """Every model that some step trains or uses."""
    made = {name: _BUILDERS[name](config, str(step.where)) for name, step in needed(config).items()}
    return mapping(config.model.node.where, made)


def needed(config: Config) -> dict[str, Step]:
    """Each model that is needed, and the first step that needs it."""
    found: dict[str, Step] = {}
    for step in config.steps:
        names = ["compressor", "expander"]
        names += ["discriminator"] if step.settings.gan_training else []
        names += ["text_encoder", "flow_processor"] if step.flow else []
        names += ["projection"] if aligns(step) else []
        for name in names:
            found.setdefault(name, step)
    return found


def aligns(step: Step) -> bool:
    """Whether pictures and texts are brought together in a step."""
    return step.flow and step.settings.lambda_align > 0


def auto_created(config: Config) -> Iterator[Problem]:
    """A note for each model whose size the file leaves open."""
    for name, step in needed(config).items():
        key = SIZES.get(name)
        if key is not None and not config.model.stated(key):
            yield Problem(f"Auto-created {name} with {key}={getattr(config.model.settings, key)}", step.where)


def _autoencoder(config: Config, where: Location | str, type_: str) -> Piece:
    model = config.model
    dim = model.where("vae_dim")
    spade = next((step.keys.where("train_spade") for step in config.steps if spaded(step)), None)
    return component(
        type_,
        where,
        latent_channels=said(model.settings.vae_dim, dim),
        width=said(max(model.settings.vae_dim // 2, 8), dim),
        downscale=said(DOWNSCALE, where),
        activation=_activation(config),
        spade=said(True, spade) if spade and type_ == "expander" else None,
        checkpointing=_checkpointing(config),
    )


def spaded(step: Step) -> bool:
    """Whether the expander is conditioned on the spatial context in a step."""
    return step.settings.train_spade and step.autoencoder


def _activation(config: Config) -> Node:
    settings = config.model.settings
    if settings.model_type == "bezier":
        return said("bezier", config.model.where("model_type"))
    return said(settings.baseline_activation, config.model.where("baseline_activation"))


def _checkpointing(config: Config) -> Node | None:
    key = "use_gradient_checkpointing"
    return said(True, config.model.where(key)) if config.model.settings.use_gradient_checkpointing else None


def _discriminator(config: Config, where: Location | str) -> Piece:
    model = config.model
    if model.settings.feature_maps_dim_disc is not None:
        width = said(model.settings.feature_maps_dim_disc, model.where("feature_maps_dim_disc"))
    else:
        width = said(max(model.settings.vae_dim // 2, 8), model.where("vae_dim"))
    return component("patch_discriminator", where, width=width)


def _text_encoder(config: Config, where: Location | str) -> Piece:
    model = config.model
    width, dim = model.settings.text_embedding_dim, model.where("text_embedding_dim")
    if model.settings.pretrained_bert_model is not None:
        name = said(model.settings.pretrained_bert_model, model.where("pretrained_bert_model"))
        return component("pretrained_text_encoder", where, name=name)
    return component(
        "text_transformer",
        where,
        width=said(width, dim),
        depth=said(TEXT_DEPTH, where),
        heads=said(heads(width), dim),
    )


def _flow_processor(config: Config, where: Location | str) -> Piece:
    model = config.model
    width, dim = model.settings.feature_maps_dim, model.where("feature_maps_dim")
    return component(
        "flow_transformer",
        where,
        latent_channels=said(model.settings.vae_dim, model.where("vae_dim")),
        width=said(width, dim),
        depth=said(FLOW_DEPTH, where),
        heads=said(heads(width), dim),
        patch=said(PATCH, where),
        text_width=said(model.settings.text_embedding_dim, model.where("text_embedding_dim")),
        checkpointing=_checkpointing(config),
    )


def _projection(config: Config, where: Location | str) -> Piece:
    """Between the latent and the text, whose widths differ."""
    model = config.model
    return component(
        "projection",
        where,
        width_in=said(model.settings.vae_dim, model.where("vae_dim")),
        width_out=said(model.settings.text_embedding_dim, model.where("text_embedding_dim")),
    )


def heads(width: int) -> int:
    """Attention heads of at least 32 channels each, as many as divide the width."""
    return max(count for count in range(1, max(width // 32, 1) + 1) if width % count == 0)


_BUILDERS: Mapping[str, Callable[[Config, str], Piece]] = {
    "compressor": partial(_autoencoder, type_="compressor"),
    "expander": partial(_autoencoder, type_="expander"),
    "discriminator": _discriminator,
    "text_encoder": _text_encoder,
    "flow_processor": _flow_processor,
    "projection": _projection,
}
