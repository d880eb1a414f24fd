"""After many batches in a row that are not finite, a step rolls back to its last good state and continues."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fluxflow_registry import hookimpl
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run import rollback as recovery
from fluxflow_registry.errors import TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import store
from fluxflow_registry.state.store import pack

from ..small import VAE_GAN
from .conftest import StopAfter, start, weights
from .poison import KEEPING, POISONED, Poison, differing, first_batches, kept, poisoned, take
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]


@pytest.fixture(scope="module")
def with_poison() -> Registry:
    return poisoned()


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set which batches of a step are not finite."""
    return lambda *batches: monkeypatch.setattr(Poison, "bad", lambda batch: batch in batches)


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll back after four batches in a row: tests are short."""
    monkeypatch.setattr(recovery, "PATIENCE", 4)


class Back:
    """Records the state of the run just after each rollback, and its warning."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.after: list[dict[str, Any]] = []
        self.positions: list[int] = []

    @hookimpl
    def batch_ended(self, position: Any) -> None:
        self.positions.append(position.run_batch)

    @hookimpl
    def warned(self, run: Any, message: str) -> None:
        if "and training continues with" in message:
            self.warnings.append(message)
            models = {name: model.state_dict() for name, model in run.engine.models.items()}
            self.after.append(numbers({"model": models, **run.engine.live.state()}))


def numbers(state: Any) -> dict[str, Any]:
    """Every number of a state except the counts, which continue."""
    state = {**state, "update": {name: dict(part) for name, part in state["update"].items()}}
    for part in state["update"].values():
        for count in ("skipped_in_a_row", "skipping_since", "skips", "steps"):
            part.pop(count)
    state.pop("tally")
    plain, tensors = pack(state, "a state")
    return {"plain": plain, **{name: tensor.detach().clone() for name, tensor in tensors.items()}}


class Keep:
    """Reads a checkpoint as soon as it is saved: it may be deleted before it is compared."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {}

    @hookimpl
    def checkpoint_saved(self, folder: Path) -> None:
        if folder.name == self.name:
            self.state = numbers(store.load(folder)[0])


def test_after_twenty_batches_the_state_is_that_of_the_checkpoint_and_the_data_continue(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(*range(5, 25))
    text = KEEPING.partition("\n  flow:")[0] + "\n"
    recipe = checked(text, "steps.vae_gan.epochs=5", using=with_poison)
    back, keep = Back(), Keep("000000004-vae_gan")

    ended = start(recipe, tmp_path, [back, keep])

    assert back.warnings == [
        "update `vae`: `vae/poison` has not been finite for 20 batches in a row; weights and optimizers are restored "
        "from checkpoint 000000004-vae_gan, and training continues with the next batch"
    ]
    assert differing(keep.state, back.after[0]) == []
    assert back.positions == list(range(1, 31))
    assert ended.run.live.rollbacks == 1
    assert ended.run.live.updates[1].skips == 20
    assert all(torch.isfinite(tensor).all() for tensor in weights(ended.run.models).values())
    assert differing(back.after[0], numbers({"model": {}, **ended.run.live.state()} | {"model": models(ended.run)}))


def models(run: Any) -> dict[str, Any]:
    return {name: model.state_dict() for name, model in run.models.items()}


@pytest.mark.usefixtures("four")
def test_without_a_checkpoint_the_first_step_rolls_back_to_its_initial_weights(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(2, 3, 4, 5)
    back = Back()
    recipe = checked(POISONED, "defaults.checkpoint_every=1000", using=with_poison)

    start(recipe, tmp_path, [back])

    assert "are restored from the start of the step" in back.warnings[0]
    fresh = weights(build_models(recipe, torch.device("cpu")))
    assert all(torch.equal(tensor, back.after[0][f"model.{name}"]) for name, tensor in fresh.items())
    assert not any("exp_avg" in name for name in back.after[0])


@pytest.mark.usefixtures("four")
def test_without_a_checkpoint_a_later_step_rolls_back_to_the_end_of_its_parent(
    checked: Checker, with_poison: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    during = SimpleNamespace(step="")
    monkeypatch.setattr(Poison, "bad", lambda batch: during.step == "flow" and batch in (2, 3, 4, 5))

    class Watch:
        @hookimpl
        def step_started(self, step: Any) -> None:
            during.step = step.name

    back = Back()

    ended = start(checked(KEEPING, "defaults.checkpoint_every=1000", using=with_poison), tmp_path, [back, Watch()])

    assert "update `flow`: `flow/poison`" in back.warnings[0]
    end, _ = store.load(ended.run.folder.path / "checkpoints" / "000000012-vae_gan-end")
    before = {f"model.{n}.{k}": v for n, part in end["model"].items() for k, v in part.items()}
    assert all(torch.equal(tensor, back.after[0][name]) for name, tensor in before.items())
    assert torch.equal(_all(back, "ema.flow_processor."), _all(back, "model.flow_processor."))


def _all(back: Back, prefix: str) -> torch.Tensor:
    """The numbers just after the first rollback whose names start with a prefix, in one row."""
    return torch.cat([v.reshape(-1) for k, v in sorted(back.after[0].items()) if k.startswith(prefix)])


@pytest.mark.usefixtures("four")
def test_training_fails_after_three_rollbacks_and_names_the_latest_bundle(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(*range(5, 100))
    back = Back()

    with pytest.raises(TrainingError) as raised:
        start(checked(POISONED, "steps.vae_gan.epochs=9", using=with_poison), tmp_path, [back])

    text = str(raised.value)
    assert "update `vae`: `vae/poison` has not been finite for 4 batches in a row" in text
    assert "status   already rolled back 3 times without success" in text
    assert "not_finite/000000014-vae" in text
    assert len(back.warnings) == 3
    assert back.positions[-1] == 21


@pytest.mark.usefixtures("four")
def test_an_update_that_never_had_a_finite_batch_ends_the_run_without_a_rollback(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(*range(100))
    back = Back()

    with pytest.raises(TrainingError) as raised:
        start(checked(POISONED, using=with_poison), tmp_path, [back])

    status = "no batch of this update has been finite yet, so there is no good state to roll back to"
    assert status in str(raised.value)
    assert back.warnings == []
    assert back.positions == [1, 2, 3, 4]


@pytest.mark.usefixtures("four")
def test_training_does_not_roll_back_to_a_checkpoint_that_is_not_finite(
    checked: Checker, with_poison: Registry, tmp_path: Path
) -> None:
    class Breaks:
        """Breaks a weight just before the checkpoint after eight batches, as too high a learning rate might."""

        @hookimpl
        def batch_ended(self, run: Any, position: Any) -> None:
            if position.run_batch == 8:
                with torch.no_grad():
                    next(run.engine.models["expander"].parameters()).fill_(math.nan)

    back = Back()

    ended = start(checked(POISONED, "steps.vae_gan.epochs=3", using=with_poison), tmp_path, [Breaks(), back])

    assert "are restored from checkpoint 000000004-vae_gan," in back.warnings[0]
    assert all(torch.isfinite(tensor).all() for tensor in weights(ended.run.models).values())


class Killed(BaseException):
    """The process was killed."""


class KillAfter(StopAfter):
    """An observer that kills the run after a number of batches."""

    def _count(self, event: str, run: Any) -> None:
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                raise Killed


#: One batch alone, then a series that starts just after a checkpoint and ends in a rollback.
BAD = (5, 8, 9, 10, 11)
THREE_EPOCHS = ("steps.vae_gan.epochs=3", "steps.vae_gan.best={metric: vae_loss}")


@pytest.fixture(scope="module")
def undisturbed(with_poison: Registry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "recipe.yaml").write_text(POISONED)
    from fluxflow_registry.check.checker import check

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "PATIENCE", 4)
        patch.setattr(Poison, "bad", lambda batch: batch in BAD)
        ended = start(check(root / "recipe.yaml", with_poison, THREE_EPOCHS), root).run
    assert ended.live.rollbacks == 1
    return ended


#: Before everything, after the single batch, at the checkpoint, within the streak, at the roll-back, after it.
PLACES = [3, 6, 8, 10, 11, 12, 13]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("how", [StopAfter, KillAfter])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_stopped_or_killed_near_skipped_batches_ends_with_the_same_weights(
    checked: Checker,
    with_poison: Registry,
    bad: Callable[..., None],
    undisturbed: Any,
    tmp_path: Path,
    how: Any,
    place: int,
) -> None:
    bad(*BAD)

    with pytest.raises(Killed) if how is KillAfter else nullcontext():
        first = start(checked(POISONED, *THREE_EPOCHS, using=with_poison), tmp_path, [how("batch_ended", place)])
        assert first.stopped is not None
    ended = start(checked(POISONED, *THREE_EPOCHS, using=with_poison), tmp_path).run

    assert finals(ended) == finals(undisturbed)
    assert ended.live.metrics.history == undisturbed.live.metrics.history
    assert (
        differing(
            numbers({"model": models(undisturbed), **undisturbed.live.state()}),
            numbers({"model": models(ended), **ended.live.state()}),
        )
        == []
    )
    assert [(t.steps, t.skips) for t in ended.live.updates] == [(t.steps, t.skips) for t in undisturbed.live.updates]


@pytest.mark.usefixtures("four")
def test_stopping_after_every_batch_changes_nothing_and_reports_what_is_not_finite(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], undisturbed: Any, tmp_path: Path
) -> None:
    bad(*BAD)
    recipe = checked(POISONED, *THREE_EPOCHS, using=with_poison)
    warned: list[str] = []

    while (attempt := start(recipe, tmp_path, [StopAfter("batch_ended", 1), Listener(warned)])).stopped is not None:
        pass

    assert finals(attempt.run) == finals(undisturbed)
    assert any("`vae/poison` has not been finite for 4 batches in a row" in message for message in warned)
    assert len([message for message in warned if "skipped\n" in message]) == 2


@pytest.mark.usefixtures("four")
def test_a_run_killed_between_the_best_and_the_due_checkpoint_rolls_back_to_the_same_state(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    class KillAt:
        @hookimpl
        def checkpoint_saved(self, folder: Path) -> None:
            if folder.name == "000000006-vae_gan-best":
                raise Killed

    bad(6, 7, 8, 9)
    settings = ("steps.vae_gan.best={metric: vae_loss}", "defaults.checkpoint_every=6")
    recipe = checked(POISONED, *settings, using=with_poison)
    whole = start(recipe, tmp_path / "whole").run
    with pytest.raises(Killed):
        start(recipe, tmp_path / "cut", [KillAt()])
    (folder,) = (tmp_path / "cut").iterdir()
    for due in folder.glob("checkpoints/*-vae_gan"):
        shutil.rmtree(due)

    back = Back()
    ended = start(recipe, tmp_path / "cut", [back]).run

    assert "are restored from checkpoint 000000006-vae_gan-best," in back.warnings[0]
    assert finals(ended) == finals(whole)


def test_undisturbed_training_warns_of_nothing(checked: Checker, with_poison: Registry, tmp_path: Path) -> None:
    warned: list[str] = []

    ended = start(checked(VAE_GAN, using=with_poison), tmp_path, [Listener(warned)])

    assert warned == []
    assert not (ended.run.folder.path / "not_finite").exists()


#: At this rate one step of an optimizer ruins a model, though all its weights are finite.
RUINOUS = ("steps.vae_gan.updates.vae.optimizer.lr=1.0e+30", "steps.vae_gan.updates.vae.scheduler=null")


@pytest.mark.parametrize(
    "settings",
    [
        *([f"steps.vae_gan.max_steps={batches}", "steps.vae_gan.epochs=1"] for batches in (2, 3)),
        ["steps.vae_gan.max_steps=1", "steps.vae_gan.epochs=2"],
        ["steps.vae_gan.epochs=2"],
        ["steps.vae_gan.epochs=3", "steps.vae_gan.accumulate=3"],
        ["steps.vae_gan.epochs=2", "defaults.checkpoint_every=1"],
        ["steps.vae_gan.epochs=1", "steps.vae_gan.precision=bf16"],
        ["steps.vae_gan.epochs=1", "steps.vae_gan.ema={models: [expander]}"],
        ["steps.vae_gan.epochs=9", "steps.vae_gan.until={type: plateau, metric: discriminator_loss, patience: 1}"],
    ],
    ids=str,
)
def test_a_step_whose_weights_make_everything_not_finite_does_not_end_well(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path, settings: list[str]
) -> None:
    bad()
    recipe = checked(KEEPING if len(settings) == 1 else POISONED, *RUINOUS, *settings, using=with_poison)

    for _ in range(2):  # the same command ends the same
        with pytest.raises(TrainingError) as raised:
            start(recipe, tmp_path)

        assert {problem.code for problem in raised.value.problems} == {"not-finite"}
        problem = next(problem for problem in raised.value.problems if problem.subject == "vae")
        assert problem.message.startswith("step `vae_gan` ends with weights for which ")
        assert any(label == "command" and "--replay" in text for label, text in problem.notes)
        status = dict(problem.notes)["status"]
        assert "of update `vae` were skipped, and the batches after them would be" in status
        (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
        assert not (folder / "final").exists()
        assert not list(folder.glob("checkpoints/*-end"))


@pytest.mark.parametrize("series", [1, 3, 5])
def test_a_step_whose_last_batches_are_not_finite_ends_well_where_the_batches_are_to_blame(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path, series: int
) -> None:
    bad(*range(12 - series, 12))
    warned: list[str] = []

    run = start(checked(KEEPING, using=with_poison), tmp_path, [Listener(warned)]).run

    assert f"update `vae`: {series} of 12 batches were skipped as not finite" in warned
    assert all(torch.isfinite(tensor).all() for tensor in weights(run.models).values())


def test_judging_the_weights_at_the_end_changes_nothing(
    checked: Checker, live: Any, with_poison: Registry, bad: Callable[..., None]
) -> None:
    bad(3)
    training = live(checked(KEEPING, using=with_poison))
    first = first_batches(training, 5)
    take(training, first[:4], 0)
    before = kept(training, ["vae", "discriminator"])
    counts = [(each.steps, each.skips, each.skipped_in_a_row) for each in training.updates]
    vae = training.updates[1]

    finite = training.is_finite(vae, first[4], 4)
    bad(4)
    not_finite = training.is_finite(vae, first[4], 4)

    assert (finite, not_finite) == (True, False)
    assert differing(before, kept(training, ["vae", "discriminator"])) == []
    assert [(each.steps, each.skips, each.skipped_in_a_row) for each in training.updates] == counts
    assert all(parameter.grad is None for parameter in vae.parameters.values())
