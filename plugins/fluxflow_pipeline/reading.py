"""A FluxFlow file to a Config: every problem of its form in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from fluxflow_registry.errors import Location, Problem, RecipeError, choices
from fluxflow_registry.recipe.load import unique
from fluxflow_registry.recipe.node import Node, describe, merge
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.signature import fields_of

from .config import Config, Section, Step
from .options import (
    ALIASES,
    BATCH_SIZE,
    FORMER,
    MODELS,
    MOOT,
    OPTIMIZER_ALIASES,
    OPTIMIZERS,
    STREAMING_WORKERS,
    WORKERS,
    DataKeys,
    DatasetKeys,
    ModelKeys,
    OutputKeys,
    StepKeys,
    TransitionKeys,
)
from .sections import PIPELINE, SECTIONS, STEP, Reader, label

#: The dataset that the section `data` describes.
IMAGES = "images"

#: Keys that say what a step trains: with a pipeline each step says so itself.
MODES = ("train_vae", "gan_training", "train_spade", "use_lpips", "train_diff", "train_diff_full")


def read_config(path: str | Path) -> Config:
    """Read a FluxFlow configuration; raises RecipeError with every problem of its form, in the file's order."""
    root = read(path)
    if not isinstance(root.value, dict):
        raise RecipeError(Problem(f"a configuration is a mapping, not {describe(root.value)}", root.where))
    reader = _Reader()
    config = reader.config(root, str(path))
    if reader.problems:
        raise RecipeError(unique(reader.problems))
    return evolve(config, notes=tuple(unique(reader.notes)))


class _Reader(Reader):
    """Walks the file once and collects problems and notes."""

    def config(self, root: Node, path: str) -> Config:
        self.keys(root, [*SECTIONS, "optimization", "model_checkpoint"], "a configuration", "")
        checkpoint = root.get("model_checkpoint")
        if checkpoint is not None and checkpoint.value is not None:
            message = "`model_checkpoint`: weights of FluxFlow's own files cannot be read"
            self.problem(message, checkpoint.where, (("instead", "the same command goes on with an interrupted run"),))
        training = self.mapping(root, "training", "`training`")
        pipeline = training.get("pipeline")
        data = self.section(DataKeys, self.mapping(root, "data", "`data`"), "data")
        datasets = self.datasets(pipeline, data)
        steps = self.steps(root, training, pipeline, datasets, data)
        return Config(
            path=path,
            name=label(Path(path).stem) or "fluxflow",
            pipeline=pipeline is not None,
            model=self.section(ModelKeys, self.mapping(root, "model", "`model`"), "model"),
            data=data,
            datasets=datasets,
            steps=steps,
            output=self.section(OutputKeys, self.mapping(root, "output", "`output`"), "output"),
        )

    # -- datasets ------------------------------------------------------------------------------------------------

    def datasets(self, pipeline: Node | None, data: Section[DataKeys]) -> dict[str, Section[DatasetKeys]]:
        """The named datasets of a pipeline, and the one of `data`."""
        found = {}
        named = self.mapping(pipeline, "datasets", "`datasets`") if pipeline and _is_map(pipeline) else None
        for name, node in named.value.items() if named else ():
            what = f"dataset `{name}`"
            if not isinstance(node.value, dict):
                self.problem(f"{what} is described by a mapping, not {describe(node.value)}", node.where)
                continue
            section = self.section(DatasetKeys, node, "dataset", what=what)
            self.complete(section, what, named.keys[name] if named else node.where)
            found[name] = section
        own = data.settings
        if own.data_path is not None or own.webdataset_url is not None:
            streaming = own.use_webdataset if own.use_webdataset is not None else own.data_path is None
            if streaming and own.webdataset_url is None:
                self.problem(
                    "`use_webdataset` needs `webdataset_url`: where the tar files are", data.where("data_path")
                )
            if not streaming and own.data_path is None:
                self.problem("`data` needs `data_path`: where the pictures are", data.node.where)
            kept = {f.name: getattr(own, f.name) for f in fields_of(DatasetKeys) if hasattr(own, f.name)}
            settings = DatasetKeys(type="webdataset" if streaming else "local", **kept)
            found.setdefault(IMAGES, Section(settings, data.node))
        return found

    def complete(self, section: Section[DatasetKeys], what: str, where: Location | str) -> None:
        settings = section.settings
        if settings.type == "webdataset":
            if settings.webdataset_url is None:
                self.problem(f"{what} needs `webdataset_url`: where its tar files are", where)
        elif settings.image_folder is None and settings.data_path is None:
            self.problem(f"{what} needs `image_folder`: where its pictures are", where)

    # -- steps ---------------------------------------------------------------------------------------------------

    def steps(
        self,
        root: Node,
        training: Node,
        pipeline: Node | None,
        datasets: Mapping[str, Section[DatasetKeys]],
        data: Section[DataKeys],
    ) -> tuple[Step, ...]:
        self.keys(training, [*STEP, "pipeline"], "`training`", "training")
        shared = training.without(["pipeline", "name", *MOOT["training"]])
        shared = _with(shared, "optimization", root)
        self.json(shared)
        if pipeline is None:
            if not _is_map(root.get("training")):
                self.problem("a configuration has `training`: what is trained, and for how long", root.where)
                return ()
            if shared.get("n_epochs") is None:
                shared = _put(shared, "n_epochs", Node(1, "FluxFlow's default of n_epochs", {}))
            made = self.step("training", shared, shared, {}, training.where, datasets, None)
            return (made,)
        if not isinstance(pipeline.value, dict):
            self.old_form(pipeline)
            return ()
        self.keys(pipeline, PIPELINE, "`pipeline`", "training.pipeline")
        self.sequential(pipeline)
        self.ignored(training)
        default = self.default_dataset(pipeline, datasets)
        defaults = self.mapping(pipeline, "defaults", "`defaults`")
        self.keys(defaults, STEP, "`defaults`", "training")
        self.json(defaults)
        return self.listed(pipeline, shared.without(MODES), defaults, datasets, default)

    def listed(
        self,
        pipeline: Node,
        shared: Node,
        defaults: Node,
        datasets: Mapping[str, Section[DatasetKeys]],
        default: str | None,
    ) -> tuple[Step, ...]:
        steps = pipeline.get("steps")
        if steps is None or not isinstance(steps.value, list) or not steps.value:
            where = steps.where if steps is not None else pipeline.where
            self.problem("`pipeline` needs `steps`: a list of steps, each with `name` and `n_epochs`", where)
            return ()
        found: dict[str, Step] = {}
        for number, node in enumerate(steps.value, 1):
            name = self.name(node, number, found)
            if name is None:
                continue
            meant = self.keys(node, [*STEP, "name"], f"step `{name}`", "training")
            own = node.without(["name"])
            self.json(own)
            above = {"defaults": defaults, "training": shared}
            merged = merge(merge(shared.without(["n_epochs"]), defaults), own)
            if merged.get("n_epochs") is None and "n_epochs" not in meant:
                self.problem(f"step `{name}` needs `n_epochs`: a whole number", own.where)
            found[name] = self.step(name, merged, own, above, node.at("name"), datasets, default)
        return tuple(found.values())

    def name(self, node: Node, number: int, known: Mapping[str, Any]) -> str | None:
        """A step's name, which becomes part of file names."""
        if not isinstance(node.value, dict):
            self.problem(f"step {number} is described by a mapping, not {describe(node.value)}", node.where)
            return None
        stated = node.get("name")
        if stated is None or not isinstance(stated.value, str) or not label(stated.value):
            told = "" if stated is None else f", not {describe(stated.value)}"
            where = node.where if stated is None else stated.where
            self.problem(f"step {number} needs `name`: a text by which files and messages call it{told}", where)
            return f"step_{number}" if f"step_{number}" not in known else None
        name = label(stated.value)
        if name != stated.value:
            self.note(f"step `{stated.value}` is called `{name}`: names are letters, digits and _", stated.where)
        if name in known:
            self.problem(f"two steps are called `{name}`", stated.where, (("first", known[name].where),))
            return None
        return name

    def step(
        self,
        name: str,
        node: Node,
        own: Node,
        above: Mapping[str, Node],
        where: Location | str,
        datasets: Mapping[str, Section[DatasetKeys]],
        default: str | None,
    ) -> Step:
        what = f"step `{name}`" if above else "`training`"
        keys = self.settings(StepKeys, node.without(["transition_on", "optimization"]), what)
        transition = self.mapping(node, "transition_on", f"`transition_on` of {what}")
        optimization = self.mapping(node, "optimization", f"`optimization` of {what}")
        self.keys(optimization, ["optimizers", "schedulers", "optim_sched_config"], f"`optimization` of {what}", "")
        dataset = self.dataset(keys, datasets, default, what)
        chosen = datasets.get(dataset)
        levels = [own, chosen.node if chosen and dataset != IMAGES else None, *above.values()]
        streaming = chosen is not None and chosen.settings.type == "webdataset"
        return Step(
            name=name,
            keys=keys,
            own=own,
            transition=self.section(TransitionKeys, transition, "", what=f"`transition_on` of {what}"),
            optimizers=self.components(optimization, "optimizers", what),
            schedulers=self.components(optimization, "schedulers", what),
            frozen_models=self.frozen(keys, what),
            dataset=dataset,
            batch_size=_first(levels, "batch_size", BATCH_SIZE),
            workers=_first(levels, "workers", STREAMING_WORKERS if streaming else WORKERS),
            where=where,
        )

    def dataset(
        self, keys: Section[StepKeys], datasets: Mapping[str, Section[DatasetKeys]], default: str | None, what: str
    ) -> str:
        stated = keys.settings.dataset
        if stated is not None and stated not in datasets:
            self.problem(
                f"`{stated}` is no dataset of the pipeline",
                keys.where("dataset"),
                choices(stated, datasets, "datasets"),
            )
        name = stated or default or (IMAGES if IMAGES in datasets else next(iter(datasets), ""))
        if not name or (name not in datasets and stated is None):
            hint = "data: {data_path: /path/to/images, captions_file: /path/to/captions.txt, img_size: 1024}"
            self.problem(f"{what} has no pictures to train on", keys.node.where, (("state them", hint),))
        elif stated is None and default is None and len(datasets) > 1 and IMAGES not in datasets:
            message = f"{what} does not say on which of {len(datasets)} datasets it trains"
            self.problem(message, keys.node.where, (("state it", "`dataset` in the step, or `default_dataset`"),))
        return name

    def frozen(self, keys: Section[StepKeys], what: str) -> tuple[str, ...]:
        """What is frozen: the models of `freeze` but for those of `unfreeze`."""
        found: dict[str, list[str]] = {"freeze": [], "unfreeze": []}
        for key, names in found.items():
            for index, stated in enumerate(getattr(keys.settings, key)):
                model = ALIASES.get(stated, stated)
                where = keys.node.at(key, index)
                if model not in MODELS:
                    notes = choices(stated, MODELS, "models")
                    self.problem(f"`{key}` of {what} names `{stated}`, which is no model", where, notes)
                elif model in names:
                    self.problem(f"`{key}` of {what} names `{stated}` twice", where)
                names.append(model)
        return tuple(model for model in found["freeze"] if model not in found["unfreeze"])

    def components(self, optimization: Node, key: str, what: str) -> dict[str, Node]:
        """The optimizers, or the schedulers, by the name of what they are for."""
        found = {}
        stated = self.mapping(optimization, key, f"`{key}` of {what}")
        for name, node in stated.value.items():
            whose = OPTIMIZER_ALIASES.get(name, name)
            if whose not in OPTIMIZERS:
                notes = choices(name, OPTIMIZERS, "models")
                self.problem(f"`{key}` of {what} names `{name}`, which has none", stated.keys[name], notes)
            elif not isinstance(node.value, dict):
                self.problem(f"`{name}` under `{key}` of {what} is a mapping, not {describe(node.value)}", node.where)
            else:
                former = [each for each in node.value if each in FORMER]
                for each in former:
                    notes = (("now", FORMER[each]),)
                    self.problem(f"`{each}` is a spelling of an earlier version", node.keys[each], notes)
                found[whose] = node.without(former)
        return found

    def json(self, level: Node) -> None:
        """Optimizers in a file of their own have been inlined in FluxFlow; a file that is named is not read."""
        optimization = level.get("optimization")
        file = optimization.get("optim_sched_config") if optimization is not None else None
        if file is not None and file.value is not None:
            message = "optimizers in a file of their own are not read"
            hint = "optimization: {optimizers: {vae: {type: AdamW, lr: 1.0e-4}}}"
            self.problem(message, file.where, (("state them here", hint),))

    # -- the pipeline --------------------------------------------------------------------------------------------

    def old_form(self, pipeline: Node) -> None:
        """The form of early versions: a list under `pipeline`."""
        if isinstance(pipeline.value, list):
            first = pipeline.value[0].get("name") if pipeline.value else None
            name = first.value if first is not None else "step1"
            shown = f'pipeline:\n  steps:\n    - name: "{name}"'
            message = "`pipeline` is a list, which is the form of early versions: the steps stand under `steps`"
            self.problem(message, pipeline.where, (("write", shown),))
        else:
            self.problem(f"`pipeline` is a mapping with `steps`, not {describe(pipeline.value)}", pipeline.where)

    def sequential(self, pipeline: Node) -> None:
        mode = pipeline.get("mode")
        if mode is not None and mode.value != "sequential":
            self.problem("`mode` of a pipeline is `sequential`: one step after the other", mode.where)

    def ignored(self, training: Node) -> None:
        """What `training` says of one step alone, beside a pipeline of several."""
        for key in (*MODES, "n_epochs"):
            if training.get(key) is not None:
                self.note(
                    f"`{key}` of `training` is left out: with a pipeline each step has its own", training.keys[key]
                )

    def default_dataset(self, pipeline: Node, datasets: Mapping[str, Any]) -> str | None:
        stated = pipeline.get("default_dataset")
        if stated is None or stated.value is None:
            return None
        if stated.value not in datasets:
            notes = choices(str(stated.value), datasets, "datasets")
            self.problem(f"`default_dataset` names {describe(stated.value)}, which is no dataset", stated.where, notes)
            return next(iter(datasets), None)
        return str(stated.value)


def _is_map(node: Node | None) -> bool:
    return node is not None and isinstance(node.value, dict)


def _put(node: Node, key: str, child: Node) -> Node:
    return Node({**node.value, key: child}, node.where, {**node.keys, key: child.where})


def _with(node: Node, key: str, parent: Node) -> Node:
    """The mapping with a key that another one may state for it."""
    child = parent.get(key)
    return _put(node, key, child) if child is not None and node.get(key) is None else node


def _first(levels: Iterable[Node | None], key: str, default: int) -> Node:
    """The value of the first level that states the key."""
    for level in levels:
        child = level.get(key) if level is not None else None
        if child is not None and child.value is not None:
            return child
    return Node(default, f"FluxFlow's default of {key}", {})
