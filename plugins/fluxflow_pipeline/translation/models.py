"""The models and datasets of a FluxFlow configuration, whose files set sizes and never declare models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fluxflow_registry import Location, Problem
from fluxflow_registry.commands import Node, as_node

from ..config.config import Config, Section, Step, aligns, trained_models, trains_flow, uses_spade
from ..config.keys import DatasetKeys
from ..config.rules import DOWNSCALE, PATCH, size_unit
from .recipe_text import component, entry

#: Blocks of the transformers, and tokens of a caption for a pretrained text encoder.
TEXT_DEPTH, FLOW_DEPTH = 4, 12
MAX_TOKENS = 128

#: Halvings of the discriminator.
DISCRIMINATOR_DEPTH = 4

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
    """With spectral normalization, and a projection on the mean of the latent; its width is that of the autoencoder."""
    return component(
        "patch_discriminator",
        where,
        width=_half_of_latent(config),
        depth=DISCRIMINATOR_DEPTH,
        spectral_norm=True,
        details=0.0,
        context_width=config.model.value("vae_dim"),
    )


def _text_encoder(config: Config, where: Location) -> Node:
    model = config.model
    pretrained = model.value("pretrained_bert_model")
    width = model.settings.text_embedding_dim
    if pretrained is not None:
        head = model.value("text_embedding_dim")
        return component("pretrained_text_encoder", where, name=pretrained, max_tokens=MAX_TOKENS, head=head)
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
        heads=as_node(heads_of(model.settings.feature_maps_dim, multiple=4), model.where("feature_maps_dim")),
        patch=PATCH,
        text_width=model.value("text_embedding_dim"),
        positions="rotary",
        checkpointing=_checkpointing(config) if model.sets("use_gradient_checkpointing") else None,
    )


def _projection(config: Config, where: Location) -> Node:
    """Between latent and text, which have different widths."""
    widths = {"width_in": config.model.value("vae_dim"), "width_out": config.model.value("text_embedding_dim")}
    return component("projection", where, **widths)


def heads_of(width: int, multiple: int = 1) -> int:
    """Attention heads of at least 32 channels each, as many as divide the width; their channels are a `multiple`."""
    return max((n for n in range(1, width // 32 + 1) if width % (n * multiple) == 0), default=1)


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
    return entry(config.data.node.where, **{name: _dataset(config, name) for name in used})


def _dataset(config: Config, name: str) -> Node:
    section = config.datasets[name]
    settings, where = section.settings, section.node.where
    shared = {
        "image_size": _own_or_shared(config, section, "img_size"),
        "caption_prefix": _own_or_shared(config, section, "fixed_prompt_prefix"),
        "reduced_min_sizes": _smaller_sizes(config, name),
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
    # Images keep their aspect: each belongs to the nearest of the sizes with about as many pixels as the square.
    unit = as_node(size_unit(config, name), _owner(config, section, "img_size").where("img_size"))
    return component(
        "folder", where, path=path, captions=section.value("captions_file"), bucket_multiple=unit, **shared
    )


def _smaller_sizes(config: Config, name: str) -> Node | None:
    """The smaller sides on which each batch is trained as well; larger ones are skipped."""
    sides = _own_or_shared(config, config.datasets[name], "reduced_min_sizes")
    smaller = [side for side in sides.value if side.value < config.side_of(name)] if sides is not None else []
    return as_node(smaller, sides.where) if sides is not None and smaller else None


def skipped_sizes(config: Config) -> Iterator[Problem]:
    """A note for each smaller side that is none."""
    for name in dict.fromkeys(step.dataset for step in config.steps):
        sides = _own_or_shared(config, config.datasets[name], "reduced_min_sizes")
        for side in sides.value if sides is not None else ():
            if side.value >= config.side_of(name):
                message = f"`reduced_min_sizes` skips {side.value}: the images of dataset `{name}` are not larger"
                yield Problem(message, side.where, code="unused", subject="reduced_min_sizes")


def _caption_key(settings: DatasetKeys) -> str:
    """`json` and `prompt` become one key, `json.prompt`; a member that is not JSON is the caption itself."""
    label = settings.webdataset_label_key
    return f"{label}.{settings.webdataset_caption_key}" if label.rpartition(".")[2] == "json" else label


def _owner(config: Config, section: Section[DatasetKeys], key: str) -> Section[Any]:
    """The dataset if it sets a key, otherwise `data`."""
    return section if section.sets(key) and section.value(key) is not None else config.data


def _own_or_shared(config: Config, section: Section[DatasetKeys], key: str) -> Node | None:
    """A setting of the dataset, or that of `data` if the dataset does not set it."""
    return _owner(config, section, key).value(key)
