"""The datasets of a FluxFlow configuration."""

from __future__ import annotations

from fluxflow_registry.recipe.node import Node

from .config import Config, Section
from .draft import Piece, component, mapping, said
from .options import DatasetKeys


def datasets(config: Config) -> Piece:
    """Every dataset that a step trains on."""
    used = dict.fromkeys(step.dataset for step in config.steps)
    return mapping(config.data.node.where, {name: _dataset(config, config.datasets[name]) for name in used})


def _dataset(config: Config, section: Section[DatasetKeys]) -> Piece:
    settings, where = section.settings, section.node.where
    common = {
        "image_size": _either(config, section, "img_size"),
        "caption_prefix": _either(config, section, "fixed_prompt_prefix"),
        "reduced_min_sizes": _either(config, section, "reduced_min_sizes"),
    }
    if settings.type == "webdataset":
        caption = _caption_key(settings)
        return component(
            "webdataset",
            where,
            shards=said(settings.webdataset_url, section.where("webdataset_url")),
            image_key=said(settings.webdataset_image_key, section.where("webdataset_image_key")),
            caption_key=said(caption, section.where("webdataset_caption_key")),
            **common,
        )
    key = "image_folder" if settings.image_folder is not None else "data_path"
    captions = settings.captions_file
    return component(
        "folder",
        where,
        path=said(getattr(settings, key), section.where(key)),
        captions=said(captions, section.where("captions_file")) if captions is not None else None,
        **common,
    )


def _caption_key(settings: DatasetKeys) -> str:
    """`json` and `prompt` are one key here, `json.prompt`; a member that is no JSON is the caption itself."""
    label = settings.webdataset_label_key
    return f"{label}.{settings.webdataset_caption_key}" if label.rpartition(".")[2] == "json" else label


def _either(config: Config, section: Section[DatasetKeys], key: str) -> Node | None:
    """A setting of the dataset, or of `data` where it has none of its own."""
    own, shared = getattr(section.settings, key), getattr(config.data.settings, key)
    if own is not None and section.stated(key):
        return said(own, section.where(key))
    return said(shared, config.data.where(key)) if shared is not None else None
