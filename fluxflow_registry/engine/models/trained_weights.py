"""The models of a run as they draw: finished, or as its newest checkpoint has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.folder import read_identity
from fluxflow_registry.errors import Problem, RunError
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.models import read_model


def load_for_drawing(
    checked: RecipePlan,
    step: StepPlan,
    run: Path,
    device: torch.device,
    branch: str | None,
    checkpoint: Path | None = None,
    finished: bool = False,
) -> tuple[dict[str, nn.Module], str, str | None]:
    """The models with the weights of `final/`, of the end of a step, or of the newest checkpoint.

    With a `checkpoint` they are its own; with `finished` no checkpoint takes the place of `final/`.
    Gives the name of what they come from too, and a note where the run is not finished. Averaged
    weights are used where a checkpoint has them.
    Raises RunError where there are no weights, or where a model's are missing or do not fit.
    """
    if checkpoint is not None:
        return _from_checkpoint(checked, device, checkpoint), checkpoint.name, None
    final = run / "final"
    if branch is None and read_identity(run).get("finished"):
        weights = {name: read_model(final / name)[1] for name in checked.models}
        models = build_models(checked, device, weights, compiled=False)
        for name, model in models.items():
            _take(model, weights[name], final / name)
        return models, "final", None
    ends = {found.step: found for found in checkpoints.listing(run / "checkpoints") if found.end}
    if branch is not None and branch in ends:
        return _from_checkpoint(checked, device, ends[branch].folder), ends[branch].folder.name, None
    if branch is not None:
        raise RunError(Problem(f"step `{branch}` of the run has not ended", str(run)))
    if finished:
        raise RunError(Problem("is not written yet: the run is not finished", str(final)))
    for found in checkpoints.listing(run / "checkpoints"):
        try:
            note = f"note: the run is not finished; drawing with {found.folder}"
            return _from_checkpoint(checked, device, found.folder), found.folder.name, note
        except RunError:
            continue
    raise RunError(Problem("has no weights yet: no finished model and no checkpoint", str(run)))


def _from_checkpoint(checked: RecipePlan, device: torch.device, folder: Path) -> dict[str, nn.Module]:
    state, _ = store.load(folder)
    weights: Mapping[str, Any] = {**state["model"], **state.get("ema", {})}
    for name in checked.models:
        if name not in weights:
            raise RunError(Problem(f"holds no weights of model `{name}`", str(folder)))
    models = build_models(checked, device, weights, compiled=False)
    for name, model in models.items():
        _take(model, weights[name], folder)
    return models


def _take(model: nn.Module, weights: Mapping[str, Any], place: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        told = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise RunError(Problem(f"the weights do not fit the model: {told}", str(place))) from error
