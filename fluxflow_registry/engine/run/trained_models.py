"""The trained models of a run: written to `final/`, and loaded from there or from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.checkpoints import SAME_VERSIONS, load_into
from fluxflow_registry.engine.run.folder import CHECKPOINTS, FINAL, NOT_FINITE, read_identity
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.errors import Problem, RunError
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.writer import component_of, plain
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.store import read_model, write_model


def final_folder(plan: RecipePlan, run: Path, leaf: str) -> Path:
    """Where the models of a final step are written: `final/`, or `final/<step>/` where the recipe has branches."""
    return run / FINAL / leaf if len(plan.leaves) > 1 else run / FINAL


def written_folders(plan: RecipePlan, run: Path) -> Iterator[Path]:
    """The folders in a run's folder that training writes into."""
    yield from (run / name for name in (CHECKPOINTS, NOT_FINITE, FINAL))
    for leaf in plan.leaves:
        folder = final_folder(plan, run, leaf.name)
        yield from (folder, *(folder / name for name in plan.models))


def write_final_models(run: Run) -> None:
    """Write each model to the folder of each final step."""
    for leaf in run.plan.leaves:
        if len(run.plan.leaves) > 1:
            run.checkpoints.load_weights(run.checkpoints.end_of(leaf.name))
        folder = final_folder(run.plan, run.folder.path, leaf.name)
        for name, model in run.models.items():
            run.folder.require()
            write_model(folder / name, config_of(run.plan.models[name]), model.state_dict())


def config_of(model: ConfiguredComponent) -> dict[str, Any]:
    """The architecture of a model as `config.json`: its type and all its options."""
    config: dict[str, Any] = plain(component_of(model.entry, model.component.name, model.instance, ""))
    return config


def load_trained_models(
    plan: RecipePlan,
    run: Path,
    device: torch.device,
    branch: str | None = None,
    checkpoint: Path | None = None,
    finished: bool = False,
) -> tuple[dict[str, nn.Module], str, str | None]:
    """The models with the weights of `final/`, of the end of a step (`branch`), or of the newest checkpoint.

    `checkpoint` selects one; `finished` accepts no checkpoint in place of `final/`. Averaged weights are used where
    a checkpoint has them. Also returns the name of their source, and a note if the run is not finished.
    Raises RunError if there are no weights, or if those of a model are missing or do not fit it.
    """
    final, saved = run / FINAL, checkpoints.listing(run / CHECKPOINTS)
    if checkpoint is None and branch is None and read_identity(run).get("finished"):
        weights = {name: read_model(final / name)[1] for name in plan.models}
        return _build(plan, device, weights, final), "final", None
    if checkpoint is None and branch is not None:
        checkpoint = next((found.folder for found in saved if found.kind == "end" and found.step == branch), None)
        if checkpoint is None:
            raise _missing(f"step `{branch}` of the run has not ended", run, branch)
    if checkpoint is not None:
        return _from_checkpoint(plan, device, checkpoint), checkpoint.name, None
    if finished:
        raise _missing("`final/` does not exist yet: the run is not finished", final)
    for found in saved:
        with suppress(RunError):
            note = f"the run is not finished; using the checkpoint {found.folder}"
            return _from_checkpoint(plan, device, found.folder), found.folder.name, note
    raise _missing("the run has no weights yet: neither `final/` nor a checkpoint", run)


def trained_in(plan: RecipePlan, checkpoint: Path) -> frozenset[str]:
    """The models that some update had changed when a checkpoint was saved; raises RunError for one that is damaged."""
    checkpoints.verify(checkpoint)
    content = json.loads((checkpoint / checkpoints.STATE).read_bytes())
    step = next((each for each in plan.steps if each.name == content["meta"]["step"]), None)
    if step is None:  # of another recipe
        return frozenset(plan.models)
    trained = step.trains
    if "update" in content["state"]:  # within the step
        steps = {name: state["steps"] for name, state in content["state"]["update"].items()}
        trained = frozenset().union(*(update.trains for update in step.updates.values() if steps.get(update.name)))
    while step.parent is not None:
        step = plan.step(step.parent)
        trained |= step.trains
    return trained


def _from_checkpoint(plan: RecipePlan, device: torch.device, folder: Path) -> dict[str, nn.Module]:
    state, _ = store.load(folder)
    return _build(plan, device, {**state["model"], **state.get("ema", {})}, folder)


def _build(plan: RecipePlan, device: torch.device, weights: Mapping[str, Any], where: Path) -> dict[str, nn.Module]:
    for name in plan.models:
        if name not in weights:
            raise _missing(f"there are no weights of model `{name}`", where, name)
    models = build_models(plan, device, weights, compiled=False)
    for name, model in models.items():
        load_into(model, name, weights, where, SAME_VERSIONS)
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                message = f"`{key}` of model `{name}` is not finite: nothing can be computed with these weights"
                raise RunError(message, str(where), code="not-finite", subject=name)
    return models


def _missing(message: str, where: Path, subject: str | None = None) -> RunError:
    return RunError(Problem(message, str(where), code="missing-weights", subject=subject))
