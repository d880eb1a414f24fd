"""Which weights `fluxflow-generate` draws with: those of a run, of one of its checkpoints, or of `final/`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Literal

from attrs import frozen

from fluxflow_registry.errors import Problem, RecipeError, RunError, choices
from fluxflow_registry.state import checkpoints


@frozen
class Place:
    """A run, and which of its weights: the best there are (`run`), those of `final/`, or those of a checkpoint."""

    run: Path
    kind: Literal["run", "final", "checkpoint"] = "run"
    #: The folder of the checkpoint.
    folder: Path | None = None
    #: The step whose weights they are, where the place says so.
    step: str | None = None


def place_of(arguments: Namespace) -> Place:
    """The place that the command line names; raises RunError where it is none, or RecipeError where it names two."""
    if arguments.run and arguments.model_checkpoint:
        raise RecipeError(Problem("a run is named already; give one of the two", "--model-checkpoint"))
    named = arguments.run or arguments.model_checkpoint
    if not named:
        raise RecipeError(
            "a run is needed: fluxflow-generate RUN, or --model-checkpoint with a run, checkpoint or final/"
        )
    return _place(Path(named))


def _place(path: Path) -> Place:
    if (path / "recipe.yaml").is_file():
        return Place(path)
    run = next((parent for parent in path.absolute().parents if (parent / "recipe.yaml").is_file()), None)
    if run is None:
        raise RunError(Problem("is no run's folder: it holds no recipe.yaml", str(path)))
    run = next((parent for parent in path.parents if parent.absolute() == run), run)
    inner = path.absolute().relative_to(run.absolute()).parts
    if not path.exists():
        known = [found.folder.name for found in checkpoints.listing(run / "checkpoints")]
        raise RunError(Problem("there is no such checkpoint", str(path), choices(path.name, known, "checkpoints")))
    if inner[0] == "final":
        branch = inner[1] if len(inner) > 1 and not (run / "final" / inner[1] / "config.json").is_file() else None
        return Place(run, "final", step=branch)
    if inner[0] == "checkpoints" and len(inner) > 1:
        folder = run / "checkpoints" / inner[1]
        step = next((f.step for f in checkpoints.listing(run / "checkpoints") if f.folder == folder), None)
        if step is not None:
            return Place(run, "checkpoint", folder, step)
    notes = (("what is", "the run's folder, a folder of its checkpoints/, or its final/"),)
    raise RunError(Problem("holds no models of its run", str(path), notes))
