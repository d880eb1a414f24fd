"""A FluxFlow file as a Config: every problem of its form in one pass."""

from __future__ import annotations

from pathlib import Path

from fluxflow_registry import RecipeError
from fluxflow_registry.commands import raise_problems, read_tree, unique

from .config import Config
from .datasets import read_datasets
from .keys import DataKeys, ModelKeys, OutputKeys
from .sections import SECTIONS, SectionReader, label
from .steps import read_steps


def read_config(path: str | Path) -> Config:
    """Read a FluxFlow configuration; raises RecipeError with every problem of its form, in the file's order."""
    root, reader = read_tree(path), SectionReader()
    if not reader.is_mapping(root, "the configuration", str(path)):
        raise RecipeError(reader.problems)
    reader.keys(root, [*SECTIONS, "optimization", "model_checkpoint"], "the configuration", "")
    checkpoint = root.get("model_checkpoint")
    if checkpoint is not None and checkpoint.value is not None:
        message = "`model_checkpoint`: weights of FluxFlow cannot be read"
        hint = [("hint", "remove it; the same command resumes an interrupted run")]
        reader.report(message, checkpoint.where, "unsupported-key", "model_checkpoint", notes=hint)
    training = reader.mapping(root, "training", "`training`")
    data = reader.section(DataKeys, reader.mapping(root, "data", "`data`"), "data")
    datasets = read_datasets(reader, training.get("pipeline"), data)
    steps = read_steps(reader, root, training, datasets)
    model = reader.section(ModelKeys, reader.mapping(root, "model", "`model`"), "model")
    output = reader.section(OutputKeys, reader.mapping(root, "output", "`output`"), "output")
    raise_problems(reader.problems)
    name, notes = label(Path(path).stem) or "fluxflow", tuple(unique(reader.notes))
    return Config(str(path), name, model, data, datasets.sections, steps, output, notes)
