"""Training from the command line: device, folder, signals, exit codes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import signal
import sys
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fluxflow_registry import __version__
from fluxflow_registry.check import Checked
from fluxflow_registry.cli.common import emit, emit_json, say
from fluxflow_registry.engine import folder as folders
from fluxflow_registry.engine.loop import Stopped, train
from fluxflow_registry.engine.run import Run, open_sources
from fluxflow_registry.engine.shapes import prove_shapes
from fluxflow_registry.errors import Problem, RecipeError, RunError, TrainingError
from fluxflow_registry.recipe import resolved
from fluxflow_registry.registry import Registry
from fluxflow_registry.resolve import resolve_recipe

#: Stopped by a signal, checkpoint saved (EX_TEMPFAIL of sysexits.h).
STOPPED = 75


def device_of(name: str | None) -> torch.device:
    """The device of that name, or the best there is; raises RecipeError for one that is not there."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("the meta device holds no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        message = f"there is no device `{name}`"
        raise RecipeError(Problem(message, "--device", (("available", ", ".join(_devices())),))) from None
    return device


def _devices() -> list[str]:
    found = ["cpu"]
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def check_run(checked: Checked, device: str | None, as_json: bool) -> int:
    """Prove everything that can be proven without training: shapes, device, datasets, one batch of each."""
    device_of(device)
    shapes = prove_shapes(checked)
    sources = open_sources(checked)
    counts = {name: len(source) for name, source in sources.items()}
    for source in sources.values():
        source.batch([0], 0)
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


def train_run(checked: Checked, registry: Registry, arguments: argparse.Namespace) -> int:
    """Train, or go on with the unfinished run of this recipe; gives the exit code.

    Everything that can fail without training is tried before the run's folder is made.
    """
    device = device_of(arguments.device)
    prove_shapes(checked)
    sources = open_sources(checked)
    tree = resolve_recipe(checked)
    folder = find_folder(checked, folders.digest_of(resolved.plain(tree)), Path(arguments.output), arguments.fresh)
    lock = folder.lock()
    try:
        write_facts(folder, resolved.dump(tree), registry, device)
        run = Run(checked, folder, sources, device)
        _listen(run)
        train(run)
    except Stopped:
        return STOPPED
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(checked, error) from None
    finally:
        lock.close()
    if arguments.json:
        emit_json({"run": str(folder.path), "results": run.results})
    return 0


def find_folder(checked: Checked, digest: str, root: Path, fresh: bool) -> folders.RunFolder:
    """The folder of the unfinished run of this recipe, or a new one."""
    found, others = (None, []) if fresh else folders.unfinished(root, checked.recipe.name, digest)
    if found is not None:
        return found
    for path in others:
        say(f"note: {path} is an unfinished run of another form of this recipe; it is left as it is")
    return folders.new(root, checked.recipe.name, digest)


def write_facts(folder: folders.RunFolder, recipe: str, registry: Registry, device: torch.device) -> None:
    """Write the resolved recipe and the environment into the run's folder; an allow-list, never a secret."""
    facts: dict[str, Any] = {
        "fluxflow_registry": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "plugins": [
            {
                "name": p.name,
                "distribution": p.distribution,
                "version": p.version,
                "source": source_digest(p.where),
                "error": p.error,
            }
            for p in registry.plugins
        ],
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    tell_changes(folder.path / "environment.json", facts["plugins"])
    try:
        (folder.path / "recipe.yaml").write_text(recipe)
        (folder.path / "environment.json").write_text(json.dumps(facts, indent=2) + "\n")
        folder.write_identity(finished=False)
    except OSError as error:
        raise RunError(Problem(f"cannot be written: {error.strerror}", str(folder.path))) from None


def tell_changes(file: Path, plugins: list[dict[str, Any]]) -> None:
    """Say which plugins have changed since the run began: it goes on with the new ones."""
    try:
        before = {p["name"]: p.get("source") for p in json.loads(file.read_text())["plugins"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    for plugin in plugins:
        if before.get(plugin["name"], plugin["source"]) != plugin["source"]:
            say(f"note: plugin `{plugin['name']}` has changed since this run began")


def source_digest(where: str) -> str | None:
    """SHA-256 over the Python sources of a plugin, a module's name or a file; None where there are none."""
    files = [Path(where)]
    if not files[0].is_file():
        spec = importlib.util.find_spec(where.partition(":")[0]) if where else None
        if spec is None or spec.origin is None:
            return None
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
    digest = sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _listen(run: Run) -> None:
    """First SIGINT or SIGTERM: finish the batch, save, leave with 75. Second: leave at once with 130."""

    def heard(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if run.stopping is not None:
            say(f"{name} again: stopped at once; the last checkpoint stands")
            # Workers and threads are not waited for: their work is not needed any more.
            sys.stderr.flush()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise SystemExit(130)
        run.stopping = name

    signal.signal(signal.SIGINT, heard)
    signal.signal(signal.SIGTERM, heard)


def _out_of_memory(checked: Checked, error: Exception) -> TrainingError:
    notes = []
    for step in checked.steps:
        image = step.fields.get("image")
        size = f", images {image.shape[-1]} x {image.shape[-2]}" if image is not None and image.shape else ""
        notes.append((f"step {step.name}", f"batch_size {step.step.settings.batch_size}{size}"))
    told = str(error).splitlines()[0]
    return TrainingError(Problem(f"out of memory: {told}", None, tuple(notes)))
