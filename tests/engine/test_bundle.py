"""A batch that was skipped: its warning, and the bundle from which it is replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data.order import names_of
from fluxflow_registry.engine.diagnosis.bundle import read_bundle
from fluxflow_registry.engine.run import rollback as recovery
from fluxflow_registry.engine.training.not_finite import not_finite
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RunError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import checkpoints, disk

from .conftest import StopAfter, start
from .poison import POISONED, Poison, first_batches, poisoned
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]
NAMED = ("datasets.shapes={type: named}",)


@pytest.fixture(scope="module")
def with_poison() -> Registry:
    return poisoned()


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set which batches of a step are not finite."""
    return lambda *batches: monkeypatch.setattr(Poison, "bad", lambda batch: batch in batches)


def test_the_warning_names_the_loss_the_samples_and_the_command_that_replays_the_batch(
    checked: Checker, live: Maker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(1)
    recipe = checked(POISONED, *NAMED, "steps.vae_gan.max_steps=4", using=with_poison)
    samples = first_batches(live(recipe), 2)[1].indices
    warned: list[str] = []

    run = start(recipe, tmp_path, [Listener(warned)]).run

    assert warned[0].splitlines() == [
        "update `vae`: `vae/poison` is not finite; batch 2 was skipped",
        f"    received  samples {', '.join(f'picture {index}' for index in samples)}",
        f"    command   fluxflow-run --replay {run.folder.path}/not_finite/000000002-vae",
    ]


def test_a_bundle_has_the_position_the_samples_the_losses_the_recipe_and_the_checkpoint(
    checked: Checker, live: Maker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(7)
    recipe = checked(POISONED, *NAMED, using=with_poison)
    samples = list(first_batches(live(recipe), 2)[1].indices)

    run = start(recipe, tmp_path).run

    (folder,) = (run.folder.path / "not_finite").iterdir()
    found = json.loads((folder / "bundle.json").read_text(), parse_constant=pytest.fail)
    assert found["names"] == [f"picture {index}" for index in found["samples"]]
    assert len(found["samples"]) == len(samples)
    assert (found["step"], found["update"], found["run_batch"], found["device"]) == ("vae_gan", "vae", 7, "cpu")
    assert found["position"] == {"step": 0, "epoch": 1, "batch": 2, "step_batch": 8, "run_batch": 8}
    assert found["losses"][0]["poison"] == "nan"
    assert 0 < found["losses"][0]["l1"] < 10
    (name, gradient), *_ = found["gradients"].items()
    assert name.startswith("compressor.")
    assert gradient["nan"] == gradient["of"] == torch.tensor(gradient["shape"]).prod()
    assert check(folder / "recipe.yaml", with_poison).steps[0].settings == recipe.steps[0].settings
    (kept,) = checkpoints.listing(folder / "checkpoints")
    assert kept.folder.name == "000000004-vae_gan"
    assert checkpoints.verify(kept.folder)["not_finite"] == []
    read = read_bundle(folder)
    assert (read.run_batch, read.samples) == (7, tuple(found["samples"]))


def test_a_bundle_keeps_its_checkpoint_after_the_run_has_deleted_it(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(4)

    run = start(checked(POISONED, "steps.vae_gan.epochs=4", using=with_poison), tmp_path).run

    (kept,) = (run.folder.path / "not_finite").glob("*/checkpoints/*")
    assert kept.name not in {found.folder.name for found in checkpoints.listing(run.folder.checkpoints)}
    assert checkpoints.verify(kept)


def test_only_the_first_of_a_series_has_a_bundle_and_a_run_has_at_most_three(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(1, 2, 4, 6, 7, 8, 10)
    warned: list[str] = []

    run = start(checked(POISONED, using=with_poison), tmp_path, [Listener(warned)]).run

    assert sorted(path.name for path in (run.folder.path / "not_finite").iterdir()) == [
        "000000002-vae",
        "000000005-vae",
        "000000007-vae",
    ]
    assert ["    command " in message for message in warned[:4]] == [True, True, True, False]


def test_a_run_that_reaches_the_batch_again_refers_to_the_existing_bundle(
    checked: Checker, with_poison: Registry, bad: Callable[..., None], tmp_path: Path
) -> None:
    bad(1)
    warned: list[str] = []
    recipe = checked(POISONED, using=with_poison)
    first = start(recipe, tmp_path, [Listener(warned), StopAfter("batch_ended", 3)])
    for folder in first.run.folder.checkpoints.iterdir():
        checkpoints.remove(folder)
    before = (first.run.folder.path / "not_finite" / "000000002-vae" / "bundle.json").stat()

    start(recipe, tmp_path, [Listener(warned)])

    assert warned[0] == warned[1]
    assert (first.run.folder.path / "not_finite" / "000000002-vae" / "bundle.json").stat().st_ino == before.st_ino


@pytest.mark.parametrize("operation", ["make_folder", "link", "replace"])
def test_a_bundle_that_cannot_be_written_leaves_no_file_and_training_continues(
    checked: Checker,
    with_poison: Registry,
    bad: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
) -> None:
    bad(5)
    whole = start(checked(POISONED, using=with_poison), tmp_path / "whole").run
    real = getattr(disk, operation)

    def full(path: Path, *rest: Any, **named: Any) -> None:
        if "not_finite" in str((path, *rest)):
            raise OSError(28, "No space left on device")
        real(path, *rest, **named)

    monkeypatch.setattr(disk, operation, full)
    warned: list[str] = []

    run = start(checked(POISONED, using=with_poison), tmp_path / "full", [Listener(warned)]).run

    assert "cannot write a bundle to replay the batch: OSError: [Errno 28] No space left on device" in warned[0]
    assert list((run.folder.path / "not_finite").glob("*")) == []
    assert finals(run) == finals(whole)


def test_a_bundle_has_the_checkpoint_that_a_rollback_in_its_replay_needs(
    checked: Checker,
    with_poison: Registry,
    bad: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "PATIENCE", 4)
    bad(5, 6, 7, 8, 9, 10)
    recipe = checked(POISONED, using=with_poison)
    start(recipe, tmp_path, [StopAfter("batch_ended", 7)])

    run = start(recipe, tmp_path).run

    second = sorted((run.folder.path / "not_finite").iterdir())[-1]
    assert second.name == "000000010-vae"
    assert {path.name for path in (second / "checkpoints").iterdir()} == {
        "000000004-vae_gan",
        "000000008-vae_gan-stop",
    }


def test_statistics_count_nan_and_infinity_apart_and_describe_the_finite_numbers() -> None:
    value = (torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([float("-inf")], dtype=torch.float64))

    found = not_finite(value)

    assert not_finite(torch.tensor([1e300], dtype=torch.float64)) == {}
    assert not_finite(["a text", torch.tensor([1])]) == {}
    assert found == {
        "shape": [[3], [1]],
        "dtype": "float32",
        "nan": 1,
        "inf": 1,
        "of": 4,
        "finite": {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0},
    }


def test_samples_without_names_are_named_by_their_numbers() -> None:
    assert names_of(object(), [3, 4]) == ["3", "4"]


BROKEN = {
    "no bundle": (None, "there is no bundle here: bundle.json is missing", "missing-file"),
    "no JSON": ("{", "cannot be read: JSONDecodeError", "unreadable-file"),
    "no mapping": ("[]", "cannot be read: TypeError", "unreadable-file"),
    "a key that is missing": ('{"format": 1}', "cannot be read: KeyError: 'step'", "unreadable-file"),
    "another version": (
        '{"format": 2}',
        "the bundle has format 2, but this version reads format 1",
        "unsupported-version",
    ),
    "deep nesting": ("[" * 100_000, "cannot be read: RecursionError", "unreadable-file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_a_bundle_is_rejected(tmp_path: Path, case: str) -> None:
    text, words, code = BROKEN[case]
    if text is not None:
        (tmp_path / "bundle.json").write_text(text)

    with pytest.raises(RunError, match=words) as caught:
        read_bundle(tmp_path)
    assert caught.value.problems[0].code == code
