"""The folder `final/`: the weights and the architecture of each model, as generation and export read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.recipe.writer import component_of, plain
from fluxflow_registry.state.models import write_model


def write_final_models(run: Run) -> Path:
    """Write each model to `final/`, or to `final/<step>/` where the recipe has branches."""
    leaves = run.plan.leaves
    final = run.folder.path / "final"
    for leaf in leaves:
        if len(leaves) > 1:
            run.checkpoints.load_weights(run.checkpoints.end_of(leaf.name))
        for name, model in run.models.items():
            target = final / name if len(leaves) == 1 else final / leaf.name / name
            write_model(target, config_of(run.plan.models[name]), model.state_dict())
    return final


def config_of(model: ConfiguredComponent) -> dict[str, Any]:
    """The architecture of a model as `config.json`: its type and all its options."""
    config: dict[str, Any] = plain(component_of(model.entry, model.component.name, model.instance, ""))
    return config
