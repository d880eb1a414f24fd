"""The steps of a FluxFlow file: those of its pipeline, or the one that `training` describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fluxflow_registry import Choices, Location
from fluxflow_registry.commands import Node, as_node, describe_value, merge

from .config import Section, Step, default_of
from .datasets import IMAGES, Datasets, dataset_of
from .key_changes import (
    BATCH_SIZE,
    MODEL_SYNONYMS,
    MODELS,
    OPTIMIZER_SYNONYMS,
    OPTIMIZERS,
    RENAMED,
    STREAMING_WORKERS,
    UNNEEDED,
    WORKERS,
)
from .keys import StepKeys, TransitionKeys
from .sections import PIPELINE, STEP, SectionReader, label

#: Modes of training: in a pipeline each step has its own.
MODES = ("train_vae", "gan_training", "train_spade", "use_lpips", "train_diff", "train_diff_full")


def read_steps(reader: SectionReader, root: Node, training: Node, datasets: Datasets) -> tuple[Step, ...]:
    """The steps of the pipeline; without a pipeline, `training` is the only step."""
    reader.keys(training, [*STEP, "pipeline"], "`training`", "training")
    shared = _with_default(training.without(["pipeline", "name", *UNNEEDED["training"]]), "optimization", root)
    _reject_optimizer_file(reader, shared)
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
    return (_read_step(reader, "training", shared, shared, {}, training.where, datasets),)


def _pipeline_steps(
    reader: SectionReader, pipeline: Node, training: Node, shared: Node, datasets: Datasets
) -> tuple[Step, ...]:
    if isinstance(pipeline.value, list):
        _report_list(reader, pipeline)
        return ()
    if not reader.is_mapping(pipeline, "`pipeline`", "pipeline"):
        return ()
    reader.keys(pipeline, PIPELINE, "`pipeline`", "training.pipeline")
    mode = pipeline.get("mode")
    if mode is not None and mode.value != "sequential":
        message = (
            f"`mode` of `pipeline` must be `sequential` (one step after the other), got {describe_value(mode.value)}"
        )
        reader.report(message, mode.where, "unsupported-value", "mode")
    for key in (*MODES, "n_epochs"):
        if training.get(key) is not None:
            message = f"`{key}` of `training` is ignored: each step of a pipeline has its own"
            reader.note(message, training.keys[key], "ignored-key", key)
    defaults = reader.mapping(pipeline, "defaults", "`defaults`")
    reader.keys(defaults, STEP, "`defaults`", "training")
    _reject_optimizer_file(reader, defaults)
    steps = pipeline.get("steps")
    if steps is None or not isinstance(steps.value, list) or not steps.value:
        message = "`pipeline` needs `steps`: a list of steps, each with `name` and `n_epochs`"
        reader.report(message, (steps or pipeline).where, "missing-key", "steps")
        return ()
    found: dict[str, Step] = {}
    above = {"defaults": defaults, "training": shared.without(MODES)}
    for number, node in enumerate(steps.value, 1):
        name = _read_name(reader, node, number, found)
        if name is not None:
            found[name] = _listed_step(reader, name, node, above, datasets)
    return tuple(found.values())


def _report_list(reader: SectionReader, pipeline: Node) -> None:
    """Reject the form of early versions, a list under `pipeline`."""
    first = pipeline.value[0].get("name") if pipeline.value else None
    form = f'pipeline:\n  steps:\n    - name: "{first.value if first is not None else "step1"}"'
    message = "`pipeline` is a list, the form of early versions: move the steps under `steps`"
    reader.report(message, pipeline.where, "wrong-type", "pipeline", notes=[("instead", form)])


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
    _reject_optimizer_file(reader, own)
    merged = merge(merge(above["training"].without(["n_epochs"]), above["defaults"]), own)
    if merged.get("n_epochs") is None and "n_epochs" not in meant:
        reader.report(f"step `{name}` needs `n_epochs`: an integer", own.where, "missing-key", "n_epochs")
    return _read_step(reader, name, merged, own, above, node.at("name"), datasets)


def _read_step(
    reader: SectionReader,
    name: str,
    node: Node,
    own: Node,
    above: Mapping[str, Node],
    where: Location,
    datasets: Datasets,
) -> Step:
    what = f"step `{name}`" if above else "`training`"
    keys = reader.settings(StepKeys, node.without(["transition_on", "optimization"]), what)
    transition = reader.mapping(node, "transition_on", f"`transition_on` of {what}")
    optimization = reader.mapping(node, "optimization", f"`optimization` of {what}")
    reader.keys(optimization, ["optimizers", "schedulers", "optim_sched_config"], f"`optimization` of {what}", "")
    dataset = dataset_of(reader, keys, datasets, what)
    chosen = datasets.sections.get(dataset)
    levels = [own, chosen.node if chosen and dataset != IMAGES else None, *above.values()]
    streaming = chosen is not None and chosen.settings.type == "webdataset"
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
        workers=_first(levels, "workers", STREAMING_WORKERS if streaming else WORKERS),
    )


def _read_frozen(reader: SectionReader, keys: Section[StepKeys], what: str) -> tuple[str, ...]:
    """The models of `freeze`, except those of `unfreeze`."""
    found: dict[str, list[str]] = {"freeze": keys.settings.freeze, "unfreeze": keys.settings.unfreeze}
    for key, names in found.items():
        models = [MODEL_SYNONYMS.get(name, name) for name in names]
        for index, (name, model) in enumerate(zip(names, models, strict=True)):
            where = keys.node.at(key, index)
            if model not in MODELS:
                message, choices = f"`{key}` of {what}: `{name}` is not a model", Choices.of(name, MODELS)
                reader.report(message, where, "unknown-name", name, choices=choices)
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
            message, choices = f"`{key}` of {what}: no model has the name `{name}`", Choices.of(name, OPTIMIZERS)
            reader.report(message, entries.keys[name], "unknown-name", name, choices=choices)
        elif reader.is_mapping(node, f"`{name}` in `{key}` of {what}", name):
            renamed = [each for each in node.value if each in RENAMED]
            for each in renamed:
                reader.renamed(each, node.keys[each])
            found[optimizer] = node.without(renamed)
    return found


def _reject_optimizer_file(reader: SectionReader, level: Node) -> None:
    """Report optimizers in a file of their own, which is not read."""
    optimization = level.get("optimization")
    file = optimization.get("optim_sched_config") if optimization is not None else None
    if file is not None and file.value is not None:
        message = "`optim_sched_config` is not supported: optimizers cannot be in a file of their own"
        example = [("instead", "optimization: {optimizers: {vae: {type: AdamW, lr: 1.0e-4}}}")]
        reader.report(message, file.where, "unsupported-key", "optim_sched_config", notes=example)


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
