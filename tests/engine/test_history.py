"""The history of a run, epoch by epoch, is in every checkpoint, beyond the end of a step and across resumptions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position, Summary
from fluxflow_registry.engine.run.checkpoints import RunHistory
from fluxflow_registry.errors import RunError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import checkpoints, disk

from ..small import FLOW, VAE_GAN
from .conftest import StopAfter, start

Checker = Callable[..., RecipePlan]


class Epochs:
    """Collects the means of each epoch."""

    def __init__(self) -> None:
        self.means: dict[str, list[float]] = {}
        self.seen: dict[str, Any] = {}

    @hookimpl
    def epoch_ended(self, run: Any, step: Any, summaries: Any) -> None:
        for name, summary in summaries.items():
            self.means.setdefault(f"{step.name} {name}", []).append(summary.mean)

    @hookimpl
    def step_started(self, run: Any, step: Any) -> None:
        self.seen[step.name] = dict(run.history)


def block(folder: Path, kind: str = "") -> dict[str, Any]:
    """The metadata of the newest checkpoint of one kind."""
    found = next(f for f in checkpoints.listing(folder / "checkpoints") if not kind or f.kind == kind)
    meta: dict[str, Any] = checkpoints.read_meta(found.folder)
    return meta


def test_a_checkpoint_in_the_second_step_has_the_metrics_of_the_first(checked: Checker, tmp_path: Path) -> None:
    seen = Epochs()

    stopped = start(checked(VAE_GAN + FLOW), tmp_path, [seen, StopAfter("batch_ended", 20)])

    meta = block(stopped.run.folder.path)
    found = meta["pipeline_metadata"]
    assert (meta["epoch"], meta["global_step"]) == (3, 20)
    assert {name: found[name] for name in list(found)[:5]} == {
        "current_step": 1,
        "current_step_name": "flow",
        "step_start_epoch": 2,
        "current_step_epoch": 1,
        "step_epochs": {"vae_gan": 2, "flow": 1},
    }
    for step in ("vae_gan", "flow"):
        logged = {name: means for name, means in found["step_metrics"][step].items() if f"{step} {name}" in seen.means}
        assert logged == {name: seen.means[f"{step} {name}"] for name in logged}
        assert f"{step.split('_')[0]}_loss" in logged
    assert found["step_metrics"]["flow"]["seen/everything"], "evaluations are among them"


def test_a_resumed_run_ends_with_the_history_of_one_that_was_never_stopped(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any]
) -> None:
    whole = uninterrupted(VAE_GAN + FLOW)
    for batches in (9, 8, 2):
        start(checked(VAE_GAN + FLOW), tmp_path / "cut", [StopAfter("batch_ended", batches)])
    seen = Epochs()

    again = start(checked(VAE_GAN + FLOW), tmp_path / "cut", [seen]).run

    assert again.history == whole.history
    assert seen.seen["flow"]["vae_gan"] == whole.history.means["vae_gan"]
    end = block(again.folder.path, "end")
    assert (end["epoch"], end["pipeline_metadata"]["current_step"]) == (4, 2)
    assert end["pipeline_metadata"]["current_step_name"] is None


def test_a_checkpoint_of_an_older_version_still_loads(
    checked: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        new = RunHistory.metadata

        def metadata(history: RunHistory, position: Position, step: str) -> dict[str, Any]:
            added = ("epoch", "global_step", "pipeline_metadata")
            return {key: value for key, value in new(history, position, step).items() if key not in added}

        older.setattr(RunHistory, "metadata", metadata)
        start(checked(VAE_GAN), tmp_path, [StopAfter("batch_ended", 8)])

    run = start(checked(VAE_GAN), tmp_path).run

    assert run.history.epochs == {"vae_gan": 2}
    assert len(run.history.means["vae_gan"]["vae_loss"]) == 2, "the step's own state had the first epoch"


def test_a_mean_that_is_not_finite_is_saved_as_null_and_restored_as_nan() -> None:
    history = RunHistory(steps=["vae"])
    history.close_epoch("vae", 2, {"vae_loss": [Summary(math.nan, 0, 0, 0), Summary(0.5, 0, 0, 0)]})

    written = json.loads(json.dumps(history.metadata(Position(epoch=2), "vae"), allow_nan=False))
    again = RunHistory()
    again.restore(written)

    assert written["pipeline_metadata"]["step_metrics"] == {"vae": {"vae_loss": [None, 0.5]}}
    assert again.epochs == {"vae": 2}
    assert math.isnan(again.means["vae"]["vae_loss"][0])
    assert again.means["vae"]["vae_loss"][1] == 0.5


#: For each part of the metadata of a checkpoint that no weight depends on: what a run does not write.
HISTORIES: dict[str, Any] = {
    "results": [None, [], "x", {"vae": 3}, {"vae": {"seen": {"psnr": "high"}}}, {"vae": {"seen": {"psnr": 10**400}}}],
    "damaged": [None, [1], {"shapes": 3}],
    "pipeline_metadata": [None, [], {"step_metrics": 3}, {"step_metrics": {"vae": {"l1": [[]]}}}, {"step_epochs": [1]}],
}


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in HISTORIES.items() for value in values])
def test_a_damaged_history_is_named_and_starts_over(part: str, value: Any) -> None:
    history = RunHistory("digest", ["vae"])
    history.close_epoch("vae", 1, {"l1": [Summary(1.0, 1.0, 1.0, 1.0)]})
    saved = json.loads(json.dumps(history.metadata(Position(0, 1, 0, 3, 3), "vae")))

    whole = history.restore(saved)
    problem = history.restore({**saved, part: value})

    assert whole is None
    assert problem is not None
    assert re.match(r"(Type|Attribute|Overflow)Error: ", problem)
    assert (history.epochs, history.means, history.results, history.damaged) == ({}, {}, {}, {})


#: What a run does not write as a position, or as one of its counts.
POSITIONS: list[Any] = [None, [], {}, {"step": 0}, 3]
COUNTS: list[Any] = [-1, 9, "x", 1.5, True, None, [], 10**30]


def test_a_position_that_no_run_of_the_recipe_can_be_at_is_an_error(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN)
    first = start(recipe, tmp_path, [StopAfter("batch_ended", 1)])
    (found,) = checkpoints.listing(first.run.folder.checkpoints)
    content = json.loads((found.folder / "state.json").read_bytes())
    good = content["meta"]["position"]

    for position in (*POSITIONS, *({**good, "step": count} for count in COUNTS)):
        content["meta"]["position"] = position
        manifest = json.loads((found.folder / "manifest.json").read_bytes())
        manifest["files"]["state.json"] = disk.write(found.folder / "state.json", [json.dumps(content).encode()])
        manifest["digest"] = checkpoints.own_digest(manifest)
        disk.write(found.folder / "manifest.json", [json.dumps(manifest).encode()])
        with pytest.raises(RunError, match="the checkpoint does not fit the recipe"):
            start(recipe, tmp_path)
