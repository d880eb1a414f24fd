"""The sections of a FluxFlow file: mappings as settings, and every key that is unknown, renamed or not needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from attrs import evolve

from fluxflow_registry import Location, Problem
from fluxflow_registry.commands import Node, as_node, describe_value, keys_of, read_fields, unknown_keys

from .config import Section
from .keys import DataKeys, ModelKeys, OutputKeys, StepKeys

_COUNTED = "the samples of the tar files are counted"

#: Keys of FluxFlow that have no use here, by section, and why.
UNNEEDED: dict[str, dict[str, str]] = {
    "model": {
        "model_version": "the architectures are those of this framework",
        "feature_maps_dim_disc": "it sizes an image encoder that FluxFlow never trains, not the discriminator",
        "baseline_vae_width_mult": "the width follows from `vae_dim`",
        "baseline_vae_depth_mult": "the recipe sets the depths",
        "baseline_flow_blocks": "the recipe sets the depths",
        "baseline_flow_ffn_expansion": "the transformer has a fixed expansion",
        "attention_backend": "torch chooses the fastest",
    },
    "data": {
        "webdataset_samples_per_shard": _COUNTED,
        "dataloader_max_retries": "samples that cannot be read are reported and replaced",
        "dataloader_retry_delay": "samples that cannot be read are reported and replaced",
        "tokenizer_name": "the text encoder has its own tokenizer",
    },
    "dataset": {"webdataset_samples_per_shard": _COUNTED},
    "training": {"preserve_lr": "a resumed run keeps its learning rates"},
    "output": {
        "log_level": "warnings are always printed",
        "log_file": "messages go to standard error, which a shell can redirect to a file",
    },
}

_THRESHOLD = "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 50}"
_OPTIMIZERS = "optimization: {optimizers: {vae: {type: AdamW, lr: 1.0e-4}}}"
_SCHEDULERS = "optimization: {schedulers: {vae: {type: CosineAnnealingLR, eta_min_factor: 0.1}}}"
_COMPONENTS = {
    "optimizers": _OPTIMIZERS,
    "schedulers": _SCHEDULERS,
    "optimizer_config": _OPTIMIZERS,
    "scheduler_config": _SCHEDULERS,
}
_SEED = "--set seed=7 on the command line"

#: Keys of older pages of FluxFlow that version 0.5.1 ignores, by section ("": the top), and how each is written now.
IGNORED: Mapping[str, Mapping[str, str]] = {
    "": {**_COMPONENTS, "seed": _SEED},
    "training": {
        **_COMPONENTS,
        "optim_sched_config": _OPTIMIZERS,
        "stop_condition": _THRESHOLD,
        "freeze_vae": "freeze: [compressor, expander]",
        "freeze_flow": "freeze: [flow_processor]",
        "freeze_text_encoder": "freeze: [text_encoder]",
        "train_text_encoder": "unfreeze: [text_encoder]",
        "train_reconstruction": "train_vae: false, and gan_training: true",
        "seed": _SEED,
    },
    "output": {
        "checkpoint_dir": "output_path: ./checkpoints",
        "sample_dir": "output_path: ./samples",
        "sample_interval": "samples_per_checkpoint: 1",
        "checkpoint_interval": "checkpoint_save_interval: 50",
    },
}

#: Other names of keys, in any version.
ALIASES: Mapping[str, Mapping[str, str]] = {
    "data": {"use_tt2m": "use_webdataset", "tt2m_token": "webdataset_token"},
}

#: Keys of earlier versions: the key that replaces each, and how it is written.
RENAMED: Mapping[str, tuple[str, str]] = {
    "duration_epochs": ("n_epochs", "n_epochs: 10"),
    "epochs": ("n_epochs", "n_epochs: 10"),
    "train_flow": ("train_diff", "train_diff: true"),
    "use_gan": ("gan_training", "gan_training: true"),
    "freeze_modules": ("freeze", "freeze: [compressor, expander]"),
    "transition_criteria": ("transition_on", _THRESHOLD),
    "optimizer_type": ("type", "type: AdamW"),
    "scheduler_type": ("type", "type: CosineAnnealingLR"),
    "loss_name": ("metric", "metric: vae_loss"),
    "metric_name": ("metric", "metric: vae_loss"),
    "loss_threshold": ("threshold", "threshold: 0.05"),
}

#: Synonyms of names under `optimization`.
OPTIMIZER_SYNONYMS = {"flow_processor": "flow", "D_img": "discriminator"}

#: What PyYAML, which FluxFlow reads its files with, takes for true, false and integers: words of YAML 1.1.
_YAML_1_1 = {**dict.fromkeys(("yes", "Yes", "YES", "on", "On", "ON"), True)}
_YAML_1_1 |= dict.fromkeys(("no", "No", "NO", "off", "Off", "OFF"), False)
_GROUPED = re.compile(r"[+-]?[0-9]{1,18}(_[0-9]{1,18})+")

T = TypeVar("T")

#: The sections at the top of a file.
SECTIONS: Mapping[str, type] = {"model": ModelKeys, "data": DataKeys, "training": StepKeys, "output": OutputKeys}

#: The keys of a step, except its name; and those of a pipeline.
STEP = [*keys_of(StepKeys), "transition_on", "optimization"]
PIPELINE = ["defaults", "steps", "datasets", "default_dataset", "mode"]

#: The keys of each section, for a key that was found in another one.
_SECTIONS = {name: keys_of(cls) for name, cls in SECTIONS.items()}
_HOMES = {**_SECTIONS, "training.pipeline": PIPELINE, "training": [*STEP, "pipeline"]}


class SectionReader:
    """Reads mappings as settings, and collects problems and notes."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def report(self, message: str, where: Location, code: str, subject: str, **more: Any) -> None:
        """Add a problem."""
        self.problems.append(Problem(message, where, code=code, subject=subject, **more))

    def note(self, message: str, where: Location, code: str, subject: str, **more: Any) -> None:
        """Add something that the user should know."""
        self.notes.append(Problem(message, where, code=code, subject=subject, **more))

    def is_mapping(self, node: Node, what: str, subject: str) -> bool:
        """Whether a value is a mapping; reports one that is not."""
        if isinstance(node.value, dict):
            return True
        self.report(f"{what} must be a mapping, got {describe_value(node.value)}", node.where, "wrong-type", subject)
        return False

    def mapping(self, parent: Node, key: str, what: str) -> Node:
        """The mapping under a key; empty if there is none."""
        node = parent.get(key)
        if node is None or node.value is None:
            return Node({}, parent.where, {})
        return node if self.is_mapping(node, what, key) else Node({}, node.where, {})

    def section(self, cls: type[T], node: Node, name: str, what: str = "") -> Section[T]:
        """A section's settings; a wrong one is replaced by its default, so that reading can continue."""
        what, node = what or f"`{name}`", _with_aliases(node, name)
        return self.settings(cls, node, what, self.keys(node, keys_of(cls), what, name))

    def settings(self, cls: type[T], node: Node, what: str, misspelled: Iterable[str] = ()) -> Section[T]:
        """The settings that the mapping has right, the defaults for the rest; unknown keys are ignored."""
        known, meant = keys_of(cls), set(misspelled)
        # A null (`webdataset_token: null`) means the default.
        present = node.only(key for key, child in node.value.items() if key in known and child.value is not None)
        arguments, problems = read_fields(cls, _as_yaml_1_1(present, cls), what, meant)
        self.problems.extend(problems)
        return Section(cls(**arguments), node, frozenset(meant | (present.value.keys() - arguments.keys())))

    def keys(self, node: Node, known: Iterable[str], what: str, section: str) -> set[str]:
        """Report unknown, renamed, ignored and unneeded keys; returns the keys that were probably meant."""
        unneeded, ignored = UNNEEDED.get(section, {}), dict(IGNORED.get(section, {}))
        if section == "training":
            ignored |= {key: f"`{key}` in the section `output`" for key in _SECTIONS["output"]}
        for key in node.value:
            if key in unneeded and node.value[key].value is not None:
                self.note(f"`{key}` is not needed: {unneeded[key]}", node.keys[key], "unneeded-key", key)
            elif key in ignored and key not in known and node.value[key].value is not None:
                message = f"`{key}` of {what} has no effect: FluxFlow 0.5.1 ignores it too"
                self.note(message, node.keys[key], "ignored-key", key, notes=[("instead", ignored[key])])
        renamed = [key for key in node.value if key in RENAMED and key not in known]
        for key in renamed:
            self.renamed(key, node.keys[key])
        # An ignored key is not offered as the nearest name of another one.
        read = node.without([*renamed, *(key for key in ignored if key not in known)])
        problems, meant = unknown_keys(read, [*known, *unneeded], what)
        for problem in problems:
            homes = [f"`{home}`" for home, keys in _HOMES.items() if home != section and problem.subject in keys]
            hint = [("hint", f"move it to {' or '.join(homes)}")] if homes else []
            self.problems.append(evolve(problem, notes=[*problem.notes, *hint]))
        return meant | {RENAMED[key][0] for key in renamed}

    def renamed(self, key: str, where: Location) -> None:
        """Report a key of an earlier version."""
        new, example = RENAMED[key]
        message = f"`{key}` is a key of an earlier version of FluxFlow: use `{new}`"
        self.report(message, where, "renamed-key", key, notes=[("instead", example)])


def _with_aliases(node: Node, section: str) -> Node:
    """The mapping with each alias under the key that it stands for; the key itself wins if it is set and true."""
    value, keys = dict(node.value), dict(node.keys)
    for alias, key in ALIASES.get(section, {}).items():
        if alias in value:
            child, where = value.pop(alias), keys.pop(alias)
            if key not in value or not value[key].value:
                value[key], keys[key] = child, where
    return Node(value, node.where, keys)


def _as_yaml_1_1(node: Node, cls: type) -> Node:
    """The mapping with `yes`, `no`, `on` and `off` where a boolean belongs, and `1_000` where a number does."""
    hints = get_type_hints(cls)
    value = {key: as_node(_scalar(child.value, hints[key]), child.where) for key, child in node.value.items()}
    changed = {key: child for key, child in value.items() if isinstance(node.value[key].value, str)}
    return Node({**node.value, **changed}, node.where, node.keys)


def _scalar(value: Any, hint: Any) -> Any:
    """A string of the file as YAML 1.1 reads it."""
    if isinstance(value, str) and hint in (bool, bool | None):
        return _YAML_1_1.get(value, value)
    if isinstance(value, str) and hint in (int, int | None, float, float | None) and _GROUPED.fullmatch(value):
        return int(value.replace("_", ""))
    return value


def label(text: str) -> str:
    """A string as a name in a recipe: letters, digits and _."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:64]
