"""Which weights `fluxflow-generate` uses: those of a run, of one of its checkpoints, or of `final/`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Literal

from attrs import frozen

from fluxflow_registry.errors import Choices, Flag, Problem, RecipeError, RunError
from fluxflow_registry.state import checkpoints


@frozen
class Place:
    """A run, and which of its weights: the newest (`run`), those of `final/`, or those of a checkpoint."""

    run: Path
    kind: Literal["run", "final", "checkpoint"] = "run"
    #: The folder of the checkpoint.
    folder: Path | None = None
    #: The step whose weights they are, if the path names it.
    step: str | None = None


def place_of(arguments: Namespace) -> Place:
    """The place that the command line names; raises RunError if there is none, RecipeError if two are named."""
    if arguments.run and arguments.model_checkpoint:
        raise RecipeError(
            "`RUN` cannot be combined with `--model-checkpoint`", Flag("--model-checkpoint"), code="conflict"
        )
    named = arguments.run or arguments.model_checkpoint
    if not named:
        hint = "fluxflow-generate RUN, or --model-checkpoint with the folder of a run, a checkpoint, or final/"
        raise RecipeError(Problem("a run is required", None, (("hint", hint),), code="missing-argument"))
    return _place(Path(named))


def _place(path: Path) -> Place:
    if (path / "recipe.yaml").is_file():
        return Place(path)
    run = next((parent for parent in path.absolute().parents if (parent / "recipe.yaml").is_file()), None)
    if run is None:
        raise RunError("this is not the folder of a run: it has no recipe.yaml", str(path), code="missing-file")
    run = next((parent for parent in path.parents if parent.absolute() == run), run)
    inner = path.absolute().relative_to(run.absolute()).parts
    if not path.exists():
        known = [found.folder.name for found in checkpoints.listing(run / "checkpoints")]
        choices = Choices.of(path.name, known)
        message = f"the run has no checkpoint `{path.name}`"
        raise RunError(Problem(message, str(path), code="missing-file", subject=path.name, choices=choices))
    if inner[0] == "final":
        branch = inner[1] if len(inner) > 1 and not (run / "final" / inner[1] / "config.json").is_file() else None
        return Place(run, "final", step=branch)
    if inner[0] == "checkpoints" and len(inner) > 1:
        folder = run / "checkpoints" / inner[1]
        step = next((f.step for f in checkpoints.listing(run / "checkpoints") if f.folder == folder), None)
        if step is not None:
            return Place(run, "checkpoint", folder, step)
    notes = (("hint", "use the folder of the run, a folder in its checkpoints/, or its final/"),)
    raise RunError(Problem("this folder of the run contains no models", str(path), notes, code="missing-weights"))
