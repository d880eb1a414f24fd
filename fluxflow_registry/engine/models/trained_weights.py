"""The trained models of a run: from `final/`, or from a checkpoint."""

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


def load_trained_models(
    checked: RecipePlan,
    step: StepPlan,
    run: Path,
    device: torch.device,
    branch: str | None,
    checkpoint: Path | None = None,
    finished: bool = False,
) -> tuple[dict[str, nn.Module], str, str | None]:
    """The models with the weights of `final/`, of the end of a step (`branch`), or of the newest checkpoint.

    `checkpoint` selects one; `finished` accepts no checkpoint in place of `final/`. Averaged weights are used where
    a checkpoint has them. Also returns the name of their source, and a note if the run is not finished.
    Raises RunError if there are no weights, or if those of a model are missing or do not fit it.
    """
    if checkpoint is not None:
        return _from_checkpoint(checked, device, checkpoint), checkpoint.name, None
    final = run / "final"
    if branch is None and read_identity(run).get("finished"):
        weights = {name: read_model(final / name)[1] for name in checked.models}
        models = build_models(checked, device, weights, compiled=False)
        for name, model in models.items():
            _load(model, name, weights[name], final / name)
        return models, "final", None
    ends = {found.step: found for found in checkpoints.listing(run / "checkpoints") if found.end}
    if branch is not None and branch in ends:
        return _from_checkpoint(checked, device, ends[branch].folder), ends[branch].folder.name, None
    if branch is not None:
        raise _missing(f"step `{branch}` of the run has not ended", run, branch)
    if finished:
        raise _missing("`final/` does not exist yet: the run is not finished", final)
    for found in checkpoints.listing(run / "checkpoints"):
        try:
            note = f"note: the run is not finished; using the checkpoint {found.folder}"
            return _from_checkpoint(checked, device, found.folder), found.folder.name, note
        except RunError:
            continue
    raise _missing("the run has no weights yet: neither `final/` nor a checkpoint", run)


def _from_checkpoint(checked: RecipePlan, device: torch.device, folder: Path) -> dict[str, nn.Module]:
    state, _ = store.load(folder)
    weights: Mapping[str, Any] = {**state["model"], **state.get("ema", {})}
    for name in checked.models:
        if name not in weights:
            raise _missing(f"the checkpoint has no weights of model `{name}`", folder, name)
    models = build_models(checked, device, weights, compiled=False)
    for name, model in models.items():
        _load(model, name, weights[name], folder)
    return models


def _missing(message: str, where: Path, subject: str | None = None) -> RunError:
    return RunError(Problem(message, str(where), code="missing-weights", subject=subject))


def _load(model: nn.Module, name: str, weights: Mapping[str, Any], where: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        cause = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        message = f"the weights do not fit model `{name}`"
        problem = Problem(message, str(where), (("cause", cause),), code="conflict", subject=name)
        raise RunError(problem) from error
