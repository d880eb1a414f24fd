"""Training from the command line: device, folder, signals, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fluxflow_registry import __version__
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.cli.output import emit, emit_json, say
from fluxflow_registry.cli.plugin_changes import changes, plugin_rows
from fluxflow_registry.cli.signals import STOPPED, Signals
from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.opening import merge_problems, open_sources
from fluxflow_registry.engine.preflight.metrics import try_metrics
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run import plugins_at_start
from fluxflow_registry.engine.run.folder import ENVIRONMENT
from fluxflow_registry.engine.run.loop import train
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.run.stopping import Stopped
from fluxflow_registry.engine.training.late_start import too_late
from fluxflow_registry.engine.training.step import with_batches
from fluxflow_registry.errors import (
    Choices,
    DataError,
    Flag,
    FluxflowError,
    Problem,
    RecipeError,
    RunError,
    TrainingError,
    Variable,
    one_line,
)
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe import writer as resolved
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import disk


def device_of(name: str | None) -> torch.device:
    """The device of that name, or the best available; raises RecipeError if there is no such device."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("the meta device has no data")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        message = f"there is no device `{name}`"
        choices = Choices.of(name, _devices())
        raise RecipeError(
            Problem(message, Flag("--device"), code="unknown-name", subject=name, choices=choices)
        ) from None
    return device


def _devices() -> list[str]:
    found = ["cpu"]
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def check_run(checked: RecipePlan, device: str | None, as_json: bool) -> int:
    """Prove everything that can be proven without training: shapes, device, datasets, one batch of each, metrics."""
    device_of(device)
    shapes = prove_shapes(checked)
    sources = open_sources(checked)
    warn_of_starts(checked, sources)
    counts = {name: len(source) for name, source in sources.items()}
    refused: dict[str, Sequence[Problem]] = {}
    for name, source in sources.items():
        try:
            Reader(source, range(len(source)), 0).read(0, 1)
        except DataError as error:
            refused[name] = error.problems
    if refused:
        raise DataError(merge_problems(refused, checked.datasets))
    try_metrics(checked, sources)
    if as_json:
        emit_json({"shapes": shapes, "samples": counts})
        return 0
    lines = ["the recipe is valid, its shapes fit, its datasets open", ""]
    lines += [f"dataset {name}: {count:,} samples" for name, count in counts.items()]
    for step, values in shapes.items():
        lines += ["", f"step {step}"]
        width = max(map(len, values), default=0)
        lines += [f"    {name:<{width}}  {shape}" for name, shape in values.items()]
    emit("\n".join(lines))
    return 0


def train_run(checked: RecipePlan, registry: Registry, arguments: argparse.Namespace, signals: Signals) -> int:
    """Train, or resume the unfinished run of this recipe; returns the exit code.

    Everything that can fail without training is tried before the folder of the run is created.
    """
    alone()
    device = device_of(arguments.device)
    prove_shapes(checked)
    sources = open_sources(checked)
    warn_of_starts(checked, sources)
    tree = effective_recipe(checked)
    folder = find_folder(checked, folders.digest_of(resolved.plain(tree)), Path(arguments.output), arguments.fresh)
    lock = folder.lock()
    try:
        write_facts(folder, resolved.dump(tree), registry, device, arguments.plugin)
        folder.write_identity(finished=False, facts=record(checked, sources, arguments.command))
        run = Run(checked, folder, sources, device)
        signals.run = run
        train(run)
    except Stopped:
        return STOPPED
    except torch.OutOfMemoryError as error:
        failure = _out_of_memory(checked, error)
        folder.write_failure(str(failure))
        raise failure from None
    except Exception as error:
        folder.write_failure(str(error) if isinstance(error, FluxflowError) else one_line(error))
        raise
    finally:
        lock.close()
    if arguments.json:
        emit_json({"run": str(folder.path), "results": run.history.results})
    return 0


def warn_of_starts(checked: RecipePlan, sources: Mapping[str, Source]) -> None:
    """Warn before training of what will never take effect; it may be intended in a short trial run."""
    for step in with_batches(checked, sources).steps:
        for problem in too_late(step):
            say(f"warning: {problem}")


def alone() -> None:
    """Raise RecipeError in one of several processes started by torchrun: each would train a run of its own."""
    size = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and size != "1":
        message = f"a run is trained by one process, but torchrun has started {size}"
        notes = (("hint", "start `fluxflow-run` without torchrun"),)
        raise RecipeError(Problem(message, Variable("WORLD_SIZE"), notes, code="conflict"))


def find_folder(checked: RecipePlan, digest: str, root: Path, fresh: bool) -> folders.RunFolder:
    """The folder of the unfinished run of this recipe, or a new one."""
    found, others = (None, []) if fresh else folders.unfinished(root, checked.recipe.name, digest)
    if found is not None:
        return found
    for path in others:
        say(f"note: {path} is an unfinished run of another version of this recipe; it stays unchanged")
    return folders.new(root, checked.recipe.name, digest)


def write_facts(
    folder: folders.RunFolder, recipe: str, registry: Registry, device: torch.device, files: list[str]
) -> None:
    """Write the effective recipe and the environment into the folder of the run: an allow-list, never a secret."""
    facts: dict[str, Any] = {
        "fluxflow_registry": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "plugins": plugin_rows(registry),
        plugins_at_start.KEY: plugins_at_start.to_record(files),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    for change in changes(folder.path, facts):  # the run resumes with what is installed now
        say(f"note: since this run started, {change}")
    try:
        disk.replace(folder.path / "recipe.yaml", recipe.encode())
        disk.replace(folder.path / ENVIRONMENT, (json.dumps(facts, indent=2) + "\n").encode())
    except OSError as error:
        raise RunError(
            Problem(
                f"cannot write to the folder of the run: {error.strerror}", str(folder.path), code="unwritable-file"
            )
        ) from None


def record(checked: RecipePlan, sources: Mapping[str, Source], command: str) -> dict[str, Any]:
    """What `--status` reports: the length of the steps, and the command that resumes, with its working directory."""
    steps = with_batches(checked, sources).steps
    directory = None
    with suppress(OSError):  # it may have been removed
        directory = str(Path.cwd())
    return {
        "name": checked.recipe.name,
        "steps": [{"name": step.name, "epochs": step.epochs, "batches": step.batches} for step in steps],
        "command": command,
        "directory": directory,
    }


def _out_of_memory(checked: RecipePlan, error: Exception) -> TrainingError:
    notes: list[tuple[str, str]] = []
    for step in checked.steps:
        image = step.fields.get("image")
        size = f", images {image.shape[-1]} x {image.shape[-2]}" if image is not None and image.shape else ""
        notes.append(("received", f"step `{step.name}`: batch_size {step.settings.batch_size}{size}"))
    message = f"out of memory: {str(error).splitlines()[0]}"
    return TrainingError(Problem(message, None, notes, code="out-of-memory"))
