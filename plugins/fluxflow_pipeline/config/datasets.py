"""The datasets of a FluxFlow file, and the one that a step trains on."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import asdict, frozen

from fluxflow_registry import Choices
from fluxflow_registry.commands import Node, describe_value, keys_of

from .config import Section
from .keys import DataKeys, DatasetKeys, StepKeys
from .sections import SectionReader

#: The dataset that the section `data` describes.
IMAGES = "images"


@frozen(eq=False)
class Datasets:
    """All datasets by name, and the name of the default one."""

    sections: Mapping[str, Section[DatasetKeys]]
    default: str | None = None


def read_datasets(reader: SectionReader, pipeline: Node | None, data: Section[DataKeys]) -> Datasets:
    """The named datasets of a pipeline, and the one of `data`."""
    if pipeline is None or not isinstance(pipeline.value, dict):
        return Datasets(_of_data(reader, data))
    sections = {}
    named = reader.mapping(pipeline, "datasets", "`datasets`")
    for name, node in named.value.items():
        what = f"dataset `{name}`"
        if reader.is_mapping(node, what, name):
            section = sections[name] = reader.section(DatasetKeys, node, "dataset", what)
            settings = section.settings
            if settings.type == "webdataset" and settings.webdataset_url is None:
                message, key = f"{what} needs `webdataset_url`: where its tar files are", "webdataset_url"
                reader.report(message, named.keys[name], "missing-key", key)
            elif settings.type == "local" and settings.image_folder is None and settings.data_path is None:
                message, key = f"{what} needs `image_folder`: where its images are", "image_folder"
                reader.report(message, named.keys[name], "missing-key", key)
    sections = {**_of_data(reader, data), **sections}
    return Datasets(sections, _default(reader, pipeline, sections))


def _of_data(reader: SectionReader, data: Section[DataKeys]) -> dict[str, Section[DatasetKeys]]:
    own = data.settings
    if own.data_path is None and own.webdataset_url is None:
        return {}
    streaming = own.use_webdataset if own.use_webdataset is not None else own.data_path is None
    if streaming and own.webdataset_url is None:
        message = "`use_webdataset` needs `webdataset_url`: where the tar files are"
        reader.report(message, data.where("data_path"), "missing-key", "webdataset_url")
    if not streaming and own.data_path is None:
        message = "`data` needs `data_path`: where the images are"
        reader.report(message, data.node.where, "missing-key", "data_path")
    shared = {key: value for key, value in asdict(own).items() if key in keys_of(DatasetKeys)}
    return {IMAGES: Section(DatasetKeys(type="webdataset" if streaming else "local", **shared), data.node)}


def _default(reader: SectionReader, pipeline: Node, sections: Mapping[str, object]) -> str | None:
    node = pipeline.get("default_dataset")
    if node is None or node.value is None:
        return None
    if isinstance(node.value, str) and node.value in sections:
        return node.value
    if isinstance(node.value, str):
        message, choices = f"`default_dataset`: there is no dataset `{node.value}`", Choices.of(node.value, sections)
        reader.report(message, node.where, "unknown-name", node.value, choices=choices)
    else:
        message = f"`default_dataset` must be the name of a dataset, got {describe_value(node.value)}"
        reader.report(message, node.where, "wrong-type", "default_dataset")
    return next(iter(sections), None)


def dataset_of(reader: SectionReader, keys: Section[StepKeys], datasets: Datasets, what: str) -> str:
    """The name of the dataset that a step trains on: its own, the default one, or the one of `data`."""
    own, sections, where = keys.settings.dataset, datasets.sections, keys.node.where
    if own is not None:
        if own not in sections:
            message, choices = f"`{own}` is not a dataset of the pipeline", Choices.of(own, sections)
            reader.report(message, keys.where("dataset"), "unknown-name", own, choices=choices)
        return own
    if datasets.default is not None:
        return datasets.default
    name = IMAGES if IMAGES in sections else next(iter(sections), "")
    if not name:
        example = "data: {data_path: /path/to/images, captions_file: /path/to/captions.txt, img_size: 1024}"
        reader.report(f"{what} has no images to train on", where, "missing-key", "data", notes=[("instead", example)])
    elif len(sections) > 1 and name != IMAGES:
        message = f"{what} must choose one of {len(sections)} datasets"
        hint = [("hint", "set `dataset` in the step, or `default_dataset` in the pipeline")]
        reader.report(message, where, "missing-key", "dataset", notes=hint)
    return name
