"""The sections of a FluxFlow file: mappings as settings, and every key that is unknown, renamed or not needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from attrs import evolve

from fluxflow_registry import Location, Problem
from fluxflow_registry.commands import Node, describe_value, keys_of, read_fields, unknown_keys

from .config import Section
from .keys import DataKeys, ModelKeys, OutputKeys, StepKeys

_COUNTED = "the samples of the tar files are counted"
_WEBDATASET = {"webdataset_size": _COUNTED, "webdataset_samples_per_shard": _COUNTED}

#: Keys of FluxFlow that have no use here, by section, and why.
UNNEEDED: dict[str, dict[str, str]] = {
    "model": {
        "model_version": "the architectures are those of this framework",
        "baseline_vae_width_mult": "the width follows from `vae_dim`",
        "baseline_vae_depth_mult": "the recipe sets the depths",
        "baseline_flow_blocks": "the recipe sets the depths",
        "baseline_flow_ffn_expansion": "the transformer has a fixed expansion",
        "attention_backend": "torch chooses the fastest",
    },
    "data": {
        **_WEBDATASET,
        "dataloader_max_retries": "samples that cannot be read are reported and replaced",
        "dataloader_retry_delay": "samples that cannot be read are reported and replaced",
        "tokenizer_name": "the text encoder has its own tokenizer",
    },
    "dataset": _WEBDATASET,
    "training": {"preserve_lr": "a resumed run keeps its learning rates"},
    "output": {
        "log_level": "warnings are always printed",
        "log_file": "messages go to standard error, which a shell can redirect to a file",
    },
}

_THRESHOLD = "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 50}"

#: Keys of earlier versions: the key that replaces each, and how it is written.
RENAMED: Mapping[str, tuple[str, str]] = {
    "duration_epochs": ("n_epochs", "n_epochs: 10"),
    "train_flow": ("train_diff", "train_diff: true"),
    "freeze_modules": ("freeze", "freeze: [compressor, expander]"),
    "freeze_vae": ("freeze", "freeze: [compressor, expander]"),
    "transition_criteria": ("transition_on", _THRESHOLD),
    "stop_condition": ("transition_on", _THRESHOLD),
    "optimizers": ("optimization", "optimization: {optimizers: {...}}"),
    "schedulers": ("optimization", "optimization: {schedulers: {...}}"),
    "optimizer_type": ("type", "type: AdamW"),
    "scheduler_type": ("type", "type: CosineAnnealingLR"),
    "loss_name": ("metric", "metric: vae_loss"),
    "metric_name": ("metric", "metric: vae_loss"),
    "loss_threshold": ("threshold", "threshold: 0.05"),
    "use_tt2m": ("use_webdataset", "use_webdataset: true"),
    "tt2m_token": ("webdataset_token", "webdataset_token: null"),
}

#: Synonyms of names under `optimization`.
OPTIMIZER_SYNONYMS = {"flow_processor": "flow", "D_img": "discriminator"}

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

    def note(self, message: str, where: Location, code: str, subject: str) -> None:
        """Add something that the user should know."""
        self.notes.append(Problem(message, where, code=code, subject=subject))

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
        what = what or f"`{name}`"
        return self.settings(cls, node, what, self.keys(node, keys_of(cls), what, name))

    def settings(self, cls: type[T], node: Node, what: str, misspelled: Iterable[str] = ()) -> Section[T]:
        """The settings that the mapping has right, the defaults for the rest; unknown keys are ignored."""
        known = keys_of(cls)
        # A null (`webdataset_token: null`) means the default.
        present = node.only(key for key, child in node.value.items() if key in known and child.value is not None)
        arguments, problems = read_fields(cls, present, what, set(misspelled))
        self.problems.extend(problems)
        return Section(cls(**arguments), node)

    def keys(self, node: Node, known: Iterable[str], what: str, section: str) -> set[str]:
        """Report unknown, renamed and unneeded keys; returns the keys that were probably meant."""
        unneeded = UNNEEDED.get(section, {})
        for key in node.value:
            if key in unneeded and node.value[key].value is not None:
                self.note(f"`{key}` is not needed: {unneeded[key]}", node.keys[key], "unneeded-key", key)
        renamed = [key for key in node.value if key in RENAMED and key not in known]
        for key in renamed:
            self.renamed(key, node.keys[key])
        problems, meant = unknown_keys(node.without(renamed), [*known, *unneeded], what)
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


def label(text: str) -> str:
    """A string as a name in a recipe: letters, digits and _."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:64]
