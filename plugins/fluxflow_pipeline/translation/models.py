"""The models and datasets of a FluxFlow configuration, whose files set sizes and never declare models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from fluxflow_registry import Location, Problem
from fluxflow_registry.commands import Node, as_node

from ..config.config import Config, Section, Step, aligns, trained_models, trains_flow, uses_spade
from ..config.keys import DatasetKeys
from ..config.rules import DOWNSCALE, PATCH
from .recipe_text import component, entry

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
    """Every model that some step trains or uses; FluxFlow uses those that no step has trained with random weights."""
    built = {name: _model(config, name, step) for name, step in required_models(config).items()}
    return entry(config.model.node.where, **built)


def _model(config: Config, name: str, step: Step) -> Node:
    model = _BUILDERS[name](config, step.where)
    trained = {each for models in trained_models(step).values() for each in models} | {"projection"}
    return (
        model
        if name in trained
        else entry(model.where, model.comment, **model.value, untrained=as_node(True, step.where))
    )


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


def datasets(config: Config) -> Node:
    """Every dataset that a step trains on."""
    used = dict.fromkeys(step.dataset for step in config.steps)
    return entry(config.data.node.where, **{name: _dataset(config, config.datasets[name]) for name in used})


def _dataset(config: Config, section: Section[DatasetKeys]) -> Node:
    settings, where = section.settings, section.node.where
    shared = {
        "image_size": _own_or_shared(config, section, "img_size"),
        "caption_prefix": _own_or_shared(config, section, "fixed_prompt_prefix"),
        "reduced_min_sizes": _own_or_shared(config, section, "reduced_min_sizes"),
    }
    if settings.type == "webdataset":
        return component(
            "webdataset",
            where,
            shards=section.value("webdataset_url"),
            image_key=section.value("webdataset_image_key"),
            caption_key=as_node(_caption_key(settings), section.where("webdataset_caption_key")),
            **shared,
        )
    path = section.value("image_folder" if settings.image_folder is not None else "data_path")
    return component("folder", where, path=path, captions=section.value("captions_file"), **shared)


def _caption_key(settings: DatasetKeys) -> str:
    """`json` and `prompt` become one key, `json.prompt`; a member that is not JSON is the caption itself."""
    label = settings.webdataset_label_key
    return f"{label}.{settings.webdataset_caption_key}" if label.rpartition(".")[2] == "json" else label


def _own_or_shared(config: Config, section: Section[DatasetKeys], key: str) -> Node | None:
    """A setting of the dataset, or that of `data` if the dataset does not set it."""
    own = section.value(key) if section.sets(key) else None
    return own if own is not None else config.data.value(key)
