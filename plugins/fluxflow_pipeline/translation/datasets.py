"""The datasets of a FluxFlow configuration."""

from __future__ import annotations

from fluxflow_registry.commands import Node, as_node

from ..config.config import Config, Section
from ..config.keys import DatasetKeys
from .nodes import component, entry


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
