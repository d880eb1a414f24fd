"""Training from the command line: device, folder, exit codes."""

from __future__ import annotations

import json
import os
import platform
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fluxflow_registry import __version__
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.check.notes import value_notes
from fluxflow_registry.cli.invocation import STOPPED, Invocation, Signals, device_of
from fluxflow_registry.cli.output import Result, exited, say, say_note, say_notes
from fluxflow_registry.cli.plugins_of_run import changes, plugin_rows
from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.order import with_batches
from fluxflow_registry.engine.preflight.everything import try_everything
from fluxflow_registry.engine.preflight.precision import precision_notes
from fluxflow_registry.engine.preflight.schedules import try_schedules
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.folder import ENVIRONMENT
from fluxflow_registry.engine.run.loop import train
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.run.stopping import Stopped
from fluxflow_registry.engine.run.trained_models import written_folders
from fluxflow_registry.engine.training.late_start import without_effect
from fluxflow_registry.errors import FluxflowError, Note, RecipeError, TrainingError, Variable, in_short
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe import writer
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import disk

#: Whether this is a system on which training is tested: all of them can fork.
SUPPORTED = hasattr(os, "fork")

UNSUPPORTED = (
    "training is supported on Linux and macOS. On this system only Ctrl-C stops a run with a checkpoint, "
    "nothing prevents two commands from training the same run, and `--prove-resume` does not work"
)


def train_command(invocation: Invocation) -> Result | int:
    """Train the recipe of the command line; returns its results, or the exit code of a stopped run."""
    assert invocation.signals is not None
    return train_run(invocation.plan, invocation.registry, invocation.arguments, invocation.signals)


def train_run(plan: RecipePlan, registry: Registry, arguments: Namespace, signals: Signals) -> Result | int:
    """Train, or resume the unfinished run of this recipe.

    Everything that can fail without training is tried before the run's folder is created.
    """
    require_single_process()
    if not SUPPORTED:
        say_note(UNSUPPORTED)
    device = device_of(arguments.device)
    say_notes([*value_notes(plan), *precision_notes(plan, device)])
    try:
        sources = try_everything(plan, device).sources
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(plan, error) from None
    warn_of_lengths(plan, sources)
    recipe = effective_recipe(plan)
    folder = find_folder(plan, folders.digest_of(writer.plain(recipe)), Path(arguments.output), arguments.fresh)
    folders.require_folders(written_folders(plan, folder.path))
    lock = folder.lock(say_note if SUPPORTED else lambda _: None)
    try:
        write_environment(folder, writer.dump(recipe), registry, device, arguments.plugin)
        folder.write_identity(finished=False, facts=facts_at_start(plan, sources, arguments.command), warn=say_note)
        run = Run(plan, folder, sources, device)
        signals.run = run
        train(run)
    except Stopped:
        return STOPPED
    except (torch.OutOfMemoryError, SystemExit) as error:
        failure = exited(error, TrainingError) if isinstance(error, SystemExit) else _out_of_memory(plan, error)
        folder.write_failure(str(failure))
        raise failure from None
    except Exception as error:
        folder.write_failure(in_short(error))
        if isinstance(error, FluxflowError) and signals.run is not None and signals.run.live is not None:
            error.exit_code = TrainingError.exit_code  # training has begun
        raise
    finally:
        folder.unlock(lock)
    return Result(lambda: {"run": str(folder.path), "results": run.history.results}, lambda: "")


def require_single_process() -> None:
    """Raise RecipeError in one of several processes that torchrun has started: each would train its own run."""
    size = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and size != "1":
        message = f"a run is trained by one process, but torchrun has started {size}"
        hint = ("hint", "start `fluxflow-run` without torchrun")
        raise RecipeError(message, Variable("WORLD_SIZE"), [hint], code="conflict", subject="WORLD_SIZE")


def find_folder(plan: RecipePlan, digest: str, root: Path, fresh: bool) -> folders.RunFolder:
    """The folder of the unfinished run of this recipe, or a new one."""
    folders.require_folders([root])
    found, others = (None, {}) if fresh else folders.unfinished(root, plan.recipe.name, digest)
    for path, description in others.items():
        say_note(f"{path} is {description}; it stays unchanged")
    if found is not None:
        if not (found.path / folders.IDENTITY).exists():
            say_note(f"{found.path} has no {folders.IDENTITY}; its checkpoints show that it trains this recipe")
        return found
    return folders.new(root, plan.recipe.name, digest)


def write_environment(
    folder: folders.RunFolder, recipe: str, registry: Registry, device: torch.device, files: list[str]
) -> None:
    """Write the effective recipe and the environment into the run's folder: what is listed here, never a secret."""
    environment: dict[str, Any] = {
        "fluxflow_registry": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "plugins": plugin_rows(registry),
        folders.STARTED_WITH: folders.to_record(files),
    }
    if device.type == "cuda":
        environment["gpu"] = torch.cuda.get_device_name(device)
    for change in changes(folder.path, environment, say_note):  # the run is resumed with the present ones
        say_note(f"since this run started, {change}")
    with disk.writing("write to the folder of the run", str(folder.path)):
        disk.replace(folder.path / folders.RECIPE, recipe.encode())
        disk.replace(folder.path / ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())


def facts_at_start(plan: RecipePlan, sources: Mapping[str, Source], command: str) -> dict[str, Any]:
    """What `--status` reads: the greatest length of each step, the command that resumes the run, and its directory."""
    directory, steps = None, with_batches(plan, sources).steps
    with suppress(OSError):  # it may no longer exist
        directory = str(Path.cwd())
    return {
        "name": plan.recipe.name,
        "steps": [{"name": step.name, "epochs": step.epochs, "batches": step.batches} for step in steps],
        "command": command,
        "directory": directory,
    }


def _out_of_memory(plan: RecipePlan, error: Exception) -> TrainingError:
    notes: list[Note] = []
    for step in plan.steps:
        image = step.fields.get("image")
        size = f", images {image.shape[-1]} x {image.shape[-2]}" if image is not None and image.shape else ""
        notes.append(("received", f"step `{step.name}`: batch_size {step.settings.batch_size}{size}"))
    notes.append(("hint", "lower `batch_size`, or set `checkpointing: true` on the largest models"))
    return TrainingError(f"out of memory: {str(error).splitlines()[0]}", None, notes, code="out-of-memory")


def warn_of_lengths(plan: RecipePlan, sources: Mapping[str, Source]) -> None:
    """Warn of what does not fit the length of its step: a mistake in a long run, but acceptable in a short trial."""
    plan = with_batches(plan, sources)
    for problem in [*(each for step in plan.steps for each in without_effect(step)), *try_schedules(plan)]:
        say(f"warning: {problem}")
