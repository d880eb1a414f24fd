"""A FluxFlow file as a Config, its datasets and steps: every problem of its form in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from fluxflow_registry import Default, FluxflowError, Location, Place, RecipeError
from fluxflow_registry.commands import Node, as_node, describe_value, keys_of, merge, read_tree, unique

from .config import Config, Section, Step, default_of
from .flags import with_flags
from .keys import DataKeys, DatasetKeys, ModelKeys, OutputKeys, StepKeys, TransitionKeys
from .rules import violations
from .sections import OPTIMIZER_SYNONYMS, PIPELINE, RENAMED, SECTIONS, STEP, UNNEEDED, SectionReader, label

#: The dataset that the section `data` describes.
IMAGES = "images"

#: FluxFlow's names of the models, and synonyms of some versions.
MODELS = ("compressor", "expander", "flow_processor", "text_encoder", "discriminator")
MODEL_SYNONYMS = {"flow": "flow_processor", "D_img": "discriminator"}

#: The keys of `optimization`, and the names under each of them.
COMPONENTS = ("optimizers", "schedulers")
OPTIMIZERS = ("vae", "discriminator", "flow", "text_encoder")

#: Batch size and workers of a file that sets none; one worker reads tar files, and the images of a file without steps.
BATCH_SIZE, WORKERS, FEW_WORKERS = 2, 8, 1

#: The tar files of a file that names none, and the samples of an epoch of tar files that a pipeline lists.
DEFAULT_SHARDS = "hf://datasets/jackyhate/text-to-image-2M/data_512_2M/*.tar"
DEFAULT_SIZE = 10_000

#: Modes of training: in a pipeline each step has its own.
MODES = ("train_vae", "gan_training", "train_spade", "use_lpips", "train_diff", "train_diff_full")


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
            section = reader.section(DatasetKeys, node, "dataset", what)
            settings = section.settings
            sections[name] = evolve(
                section, settings=evolve(settings, webdataset_size=settings.webdataset_size or DEFAULT_SIZE)
            )
            if settings.type == "webdataset" and settings.webdataset_url is None:
                message, key = f"{what} needs `webdataset_url`: where its tar files are", "webdataset_url"
                reader.report(message, named.keys[name], "missing-key", key)
            elif settings.type == "local" and settings.image_folder is None and settings.data_path is None:
                message, key = f"{what} needs `image_folder`: where its images are", "image_folder"
                reader.report(message, named.keys[name], "missing-key", key)
    sections |= {name: section for name, section in _of_data(reader, data).items() if name not in sections}
    return Datasets(sections, _default(reader, pipeline, sections))


def _of_data(reader: SectionReader, data: Section[DataKeys]) -> dict[str, Section[DatasetKeys]]:
    own = data.settings
    if own.data_path is None and own.webdataset_url is None and not own.use_webdataset:
        return {}
    streaming = own.use_webdataset if own.use_webdataset is not None else own.data_path is None
    if not streaming and own.data_path is None:
        message = "`data` needs `data_path`: where the images are"
        reader.report(message, data.node.where, "missing-key", "data_path")
    shared = {key: value for key, value in asdict(own).items() if key in keys_of(DatasetKeys)}
    if streaming and own.webdataset_url is None:
        shared["webdataset_url"] = DEFAULT_SHARDS
    return {IMAGES: Section(DatasetKeys(type="webdataset" if streaming else "local", **shared), data.node)}


def _default(reader: SectionReader, pipeline: Node, sections: Mapping[str, object]) -> str | None:
    node = pipeline.get("default_dataset")
    if node is None or node.value is None:
        return None
    if isinstance(node.value, str) and node.value in sections:
        return node.value
    if isinstance(node.value, str):
        message = f"`default_dataset`: `{node.value}` is not a dataset of the pipeline"
        reader.report(message, node.where, "unknown-name", node.value, choices=sections)
    else:
        message = f"`default_dataset` must be the name of a dataset, got {describe_value(node.value)}"
        reader.report(message, node.where, "wrong-type", "default_dataset")
    return next(iter(sections), None)


def dataset_of(reader: SectionReader, keys: Section[StepKeys], datasets: Datasets, what: str) -> str:
    """The name of the dataset that a step trains on: its own, the default one, or the one of `data`."""
    own, sections, where = keys.settings.dataset, datasets.sections, keys.node.where
    if own is not None:
        if own not in sections:
            message = f"`{own}` is not a dataset of the pipeline"
            reader.report(message, keys.where("dataset"), "unknown-name", own, choices=sections)
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


def read_steps(reader: SectionReader, root: Node, training: Node, datasets: Datasets) -> tuple[Step, ...]:
    """The steps of the pipeline; without a pipeline, `training` is the only step."""
    misspelled = reader.keys(training, [*STEP, "pipeline"], "`training`", "training")
    shared = _with_default(training.without(["pipeline", "name", *UNNEEDED["training"]]), "optimization", root)
    pipeline = training.get("pipeline")
    if pipeline is not None:
        return _pipeline_steps(reader, pipeline, training, shared, datasets)
    given = root.get("training")
    if given is None or given.value is None:
        message = "the configuration needs `training`: what to train, and for how long"
        reader.report(message, root.where, "missing-key", "training")
    if given is None or not isinstance(given.value, dict):
        return ()
    shared = _with_default(shared, "n_epochs", as_node({"n_epochs": 1}, default_of("n_epochs")))
    return (_read_step(reader, "training", shared, shared, {}, training.where, datasets, misspelled),)


def _pipeline_steps(
    reader: SectionReader, pipeline: Node, training: Node, shared: Node, datasets: Datasets
) -> tuple[Step, ...]:
    if isinstance(pipeline.value, list):
        first = pipeline.value[0].get("name") if pipeline.value else None
        form = f'pipeline:\n  steps:\n    - name: "{first.value if first is not None else "step1"}"'
        message = "`pipeline` is a list, as in early versions of FluxFlow: move the steps under `steps`"
        reader.report(message, pipeline.where, "wrong-type", "pipeline", notes=[("instead", form)])
        return ()
    if not reader.is_mapping(pipeline, "`pipeline`", "pipeline"):
        return ()
    reader.keys(pipeline, PIPELINE, "`pipeline`", "training.pipeline")
    mode = pipeline.get("mode")
    if mode is not None and mode.value != "sequential":
        found = describe_value(mode.value)
        message = f"`mode` of `pipeline` must be `sequential` (one step after the other), got {found}"
        reader.report(message, mode.where, "unsupported-value", "mode")
    for key in (*MODES, "n_epochs"):
        if training.get(key) is not None:
            message = f"`{key}` of `training` is ignored: each step of a pipeline has its own"
            reader.note(message, training.keys[key], "ignored-key", key)
    defaults = reader.mapping(pipeline, "defaults", "`defaults`")
    reader.keys(defaults, STEP, "`defaults`", "training")
    steps = pipeline.get("steps")
    if steps is None or not isinstance(steps.value, list) or not steps.value:
        message = "`pipeline` needs `steps`: a list of steps, each with `name` and `n_epochs`"
        reader.report(message, (steps or pipeline).where, "missing-key", "steps")
        return ()
    read: dict[str, Step] = {}
    above = {"defaults": defaults, "training": shared.without(MODES)}
    for number, node in enumerate(steps.value, 1):
        name = _read_name(reader, node, number, read)
        if name is not None:
            read[name] = _listed_step(reader, name, node, above, datasets)
    return tuple(read.values())


def _read_name(reader: SectionReader, node: Node, number: int, known: Mapping[str, Step]) -> str | None:
    """A step's name, which becomes part of file names."""
    if not reader.is_mapping(node, f"step {number}", str(number)):
        return None
    given = node.get("name")
    if given is None:
        reader.report(f"step {number} needs `name`: its name in files and messages", node.where, "missing-key", "name")
    elif not isinstance(given.value, str) or not label(given.value):
        message = f"`name` of step {number} must be a string with letters or digits, got {describe_value(given.value)}"
        reader.report(message, given.where, "wrong-type", "name")
    else:
        name = label(given.value)
        if name != given.value:
            message = f"step `{given.value}` is renamed to `{name}`: names have letters, digits and _"
            reader.note(message, given.where, "renamed-step", given.value)
        if name in known:
            first = [("see also", str(known[name].where))]
            reader.report(f"two steps have the name `{name}`", given.where, "duplicate-name", name, notes=first)
            return None
        return name
    return f"step_{number}" if f"step_{number}" not in known else None


def _listed_step(reader: SectionReader, name: str, node: Node, above: Mapping[str, Node], datasets: Datasets) -> Step:
    """A step of the pipeline's list, with the defaults of the levels above it."""
    meant = reader.keys(node, [*STEP, "name"], f"step `{name}`", "training")
    own = node.without(["name"])
    merged = merge(merge(above["training"].without(["n_epochs"]), above["defaults"]), own)
    if merged.get("n_epochs") is None and "n_epochs" not in meant:
        reader.report(f"step `{name}` needs `n_epochs`: the number of epochs", own.where, "missing-key", "n_epochs")
    return _read_step(reader, name, merged, own, above, node.at("name"), datasets, meant)


def _read_step(
    reader: SectionReader,
    name: str,
    node: Node,
    own: Node,
    above: Mapping[str, Node],
    where: Location,
    datasets: Datasets,
    misspelled: Iterable[str] = (),
) -> Step:
    what = f"step `{name}`" if above else "`training`"
    keys = reader.settings(StepKeys, node.without(["transition_on", "optimization"]), what, misspelled)
    transition = reader.mapping(node, "transition_on", f"`transition_on` of {what}")
    optimization = reader.mapping(node, "optimization", f"`optimization` of {what}")
    reader.keys(optimization, [*COMPONENTS, "optim_sched_config"], f"`optimization` of {what}", "")
    optimization = _with_optimizer_file(reader, optimization)
    dataset = dataset_of(reader, keys, datasets, what)
    chosen = datasets.sections.get(dataset)
    levels = [own, chosen.node if chosen and dataset != IMAGES else None, *above.values()]
    few = not above or (chosen is not None and chosen.settings.type == "webdataset")
    return Step(
        name=name,
        where=where,
        keys=keys,
        own=own,
        transition=reader.section(TransitionKeys, transition, "", f"`transition_on` of {what}"),
        optimizers=_read_components(reader, optimization, "optimizers", what),
        schedulers=_read_components(reader, optimization, "schedulers", what),
        frozen_models=_read_frozen(reader, keys, what),
        dataset=dataset,
        batch_size=_first(levels, "batch_size", BATCH_SIZE),
        workers=_first(levels, "workers", FEW_WORKERS if few else WORKERS),
        flat=not above,
    )


def _read_frozen(reader: SectionReader, keys: Section[StepKeys], what: str) -> tuple[str, ...]:
    """The models of `freeze`, except those of `unfreeze`."""
    found: dict[str, list[str]] = {"freeze": keys.settings.freeze, "unfreeze": keys.settings.unfreeze}
    for key, names in found.items():
        models = [MODEL_SYNONYMS.get(name, name) for name in names]
        for index, (name, model) in enumerate(zip(names, models, strict=True)):
            where = keys.node.at(key, index)
            if model not in MODELS:
                message = f"`{key}` of {what}: `{name}` is not a model"
                reader.report(message, where, "unknown-name", name, choices=MODELS)
            elif model in models[:index]:
                reader.report(f"`{key}` of {what} lists `{name}` twice", where, "duplicate-name", name)
        found[key] = models
    return tuple(model for model in found["freeze"] if model not in found["unfreeze"])


def _read_components(reader: SectionReader, optimization: Node, key: str, what: str) -> dict[str, Node]:
    """The optimizers, or the schedulers, by the name of what they are for."""
    found = {}
    entries = reader.mapping(optimization, key, f"`{key}` of {what}")
    for name, node in entries.value.items():
        optimizer = OPTIMIZER_SYNONYMS.get(name, name)
        if optimizer not in OPTIMIZERS:
            message = f"`{key}` of {what}: no model has the name `{name}`"
            reader.report(message, entries.keys[name], "unknown-name", name, choices=OPTIMIZERS)
        elif reader.is_mapping(node, f"`{name}` in `{key}` of {what}", name):
            renamed = [each for each in node.value if each in RENAMED]
            for each in renamed:
                reader.renamed(each, node.keys[each])
            found[optimizer] = node.without(renamed)
    return found


def _with_optimizer_file(reader: SectionReader, optimization: Node) -> Node:
    """Optimizers and schedulers with those of the JSON file that `optim_sched_config` names; the inline ones win."""
    named = optimization.get("optim_sched_config")
    if named is None or named.value is None:
        return optimization
    if not isinstance(named.value, str):
        message = f"`optim_sched_config` must be the path of a JSON file, got {describe_value(named.value)}"
        reader.report(message, named.where, "wrong-type", "optim_sched_config")
        return optimization
    try:
        content = read_tree(named.value)
    except FluxflowError as error:
        for problem in error.problems:
            inside = isinstance(problem.where, Place) and problem.where.line is not None
            message = f"`optim_sched_config` names `{named.value}`: {problem.message}"
            reader.problems.append(problem if inside else evolve(problem, message=message, where=named.where))
        return optimization
    what = f"`{named.value}`"
    if not reader.is_mapping(content, what, "optim_sched_config"):
        return optimization
    reader.keys(content, COMPONENTS, what, "")
    return merge(content.only(COMPONENTS), optimization)


def _with_default(node: Node, key: str, fallback: Node) -> Node:
    """The mapping with a key that it takes from another one if it has none."""
    child = fallback.get(key)
    if child is None or node.get(key) is not None:
        return node
    return Node({**node.value, key: child}, node.where, {**node.keys, key: child.where})


def _first(levels: Iterable[Node | None], key: str, default: int) -> Node:
    """The value of the first level that sets the key."""
    for level in levels:
        child = level.get(key) if level is not None else None
        if child is not None and child.value is not None:
            return child
    return as_node(default, default_of(key))


def read_config(path: str | Path, arguments: Mapping[str, Any] | None = None) -> Config:
    """Read a FluxFlow configuration, with FluxFlow's flags over it; the Config has every problem of both.

    Raises RecipeError for a file that is not one at all.
    """
    root, reader = with_flags(read_tree(path), arguments or {}), SectionReader()
    if not reader.is_mapping(root, "the configuration", str(path)):
        raise RecipeError(reader.problems)
    return _read(str(path), label(Path(path).stem) or "fluxflow", root, reader)


def read_flags(arguments: Mapping[str, Any]) -> Config:
    """A configuration that FluxFlow's flags alone describe."""
    root = with_flags(Node({}, Default("the command line"), {}), arguments)
    return _read("the command line", "fluxflow", root, SectionReader())


def _read(path: str, name: str, root: Node, reader: SectionReader) -> Config:
    reader.keys(root, [*SECTIONS, "optimization", "model_checkpoint"], "the configuration", "")
    _report_checkpoint(reader, root)
    training = reader.mapping(root, "training", "`training`")
    data = reader.section(DataKeys, reader.mapping(root, "data", "`data`"), "data")
    datasets = read_datasets(reader, training.get("pipeline"), data)
    steps = read_steps(reader, root, training, datasets)
    model = reader.section(ModelKeys, reader.mapping(root, "model", "`model`"), "model")
    output = reader.section(OutputKeys, reader.mapping(root, "output", "`output`"), "output")
    config = Config(path, name, model, data, datasets.sections, steps, output, tuple(unique(reader.notes)))
    return evolve(config, problems=tuple(unique([*reader.problems, *violations(config)])))


def _report_checkpoint(reader: SectionReader, root: Node) -> None:
    """Report weights to start from: those of FluxFlow belong to its own networks."""
    checkpoint = root.get("model_checkpoint")
    if checkpoint is None or checkpoint.value is None:
        return
    message = (
        "`model_checkpoint` is not supported: weights of FluxFlow belong to networks that this framework does not have"
    )
    notes = [
        ("hint", "remove it to train from new weights; FluxFlow itself can finish the runs that it has started"),
        ("hint", "a run of this framework needs no checkpoint: the command that started it resumes it"),
    ]
    reader.report(message, checkpoint.where, "unsupported-key", "model_checkpoint", notes=notes)
