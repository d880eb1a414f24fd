"""A run that is stopped and resumed ends bit-identical to one that was never interrupted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.engine.data.order import permutation
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.errors import RunError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state import disk

from ..small import FLOW, PLUGINS, VAE_GAN
from .conftest import StopAfter, start, weights

Checker = Callable[..., RecipePlan]

STOPS = [
    ("batch_ended", 1),
    ("batch_ended", 5),
    ("batch_ended", 6),  # the last batch of an epoch
    ("batch_ended", 12),  # the last batch of a step
    ("batch_ended", 15),
    ("epoch_ended", 1),
    ("epoch_ended", 2),  # the step is over
    ("step_started", 2),
    ("step_ended", 1),
    ("evaluated", 1),
]


def finals(run: Any) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.folder.path)): p.read_bytes()
        for p in sorted((run.folder.path / "final").rglob("*.safetensors"))
    }


@pytest.fixture
def straight(uninterrupted: Callable[..., Any]) -> Any:
    return uninterrupted(VAE_GAN + FLOW)


@pytest.mark.parametrize(("event", "count"), STOPS)
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(
    checked: Checker, tmp_path: Path, straight: Any, event: str, count: int
) -> None:
    recipe = checked(VAE_GAN + FLOW)

    first = start(recipe, tmp_path / "stopped", [StopAfter(event, count)])
    second = start(recipe, tmp_path / "stopped")

    assert first.stopped is not None
    assert second.stopped is None
    assert second.run.folder == first.run.folder
    assert finals(second.run) == finals(straight)
    assert second.run.history.results == straight.history.results


def test_stopping_after_every_single_batch_ends_with_the_same_weights(
    checked: Checker, tmp_path: Path, straight: Any
) -> None:
    recipe, stops = checked(VAE_GAN + FLOW), 0

    while (attempt := start(recipe, tmp_path / "often", [StopAfter("batch_ended", 1)])).stopped is not None:
        stops += 1

    assert stops >= 20
    assert finals(attempt.run) == finals(straight)


def test_with_accumulation_a_stop_undoes_the_open_window(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN, "steps.vae_gan.accumulate=4")
    whole = start(recipe, tmp_path / "whole").run

    first = start(recipe, tmp_path / "cut", [StopAfter("batch_ended", 1)])
    second = start(recipe, tmp_path / "cut")

    assert first.stopped.batch == 0
    assert finals(second.run) == finals(whole)


KEPT = {
    "a balancer": ["steps.vae_gan.updates.vae.balancer={type: inverse, window: 5}"],
    "a scaler": ["steps.vae_gan.precision=fp16"],
    "a threshold on past epochs": [
        "steps.vae_gan.until={type: loss_threshold, metric: vae_loss, threshold: 100.0, patience: 2, max_epochs: 4}"
    ],
    "a plateau": [
        "steps.vae_gan.updates.vae.scheduler={type: ReduceLROnPlateau, patience: 0, threshold: 10.0}",
        "steps.vae_gan.epochs=4",
    ],
    "an average": ["steps.vae_gan.ema={models: [expander]}"],
    "workers": ["steps.vae_gan.workers=2"],
}


@pytest.mark.parametrize("what", KEPT)
@pytest.mark.parametrize("stop", [("batch_ended", 3), ("epoch_ended", 1), ("batch_ended", 10)])
def test_everything_that_is_kept_between_batches_is_restored(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any], what: str, stop: tuple[str, int]
) -> None:
    recipe = checked(VAE_GAN, *KEPT[what])
    whole = uninterrupted(VAE_GAN, *KEPT[what])

    first = start(recipe, tmp_path / "cut", [StopAfter(*stop)])
    second = start(recipe, tmp_path / "cut")

    assert first.stopped is not None
    assert finals(second.run) == finals(whole)
    assert second.run.live.metrics.history == whole.live.metrics.history


class Noisy(nn.Module):
    """A discriminator that uses torch's global generator in a layer where that is not obvious."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(3, 1, dropout=0.5, batch_first=True)
        self.out = nn.Linear(3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = image.flatten(2).transpose(1, 2)[:, ::8]
        logits: torch.Tensor = self.out(self.attend(tokens, tokens, tokens)[0])
        return logits.transpose(1, 2)[..., None]


def noisy() -> nn.Module:
    return Noisy()


def test_randomness_inside_layers_depends_on_the_position(checked: Checker, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from fluxflow_registry import hookimpl
    from fluxflow_registry.registry.discovery import add_plugin, load
    from fluxflow_registry.registry.registry import Plugin

    @hookimpl
    def fluxflow_register_models(register: Any) -> None:
        register("noisy", noisy)

    made = load(PLUGINS)
    hooks = SimpleNamespace(fluxflow_register_models=fluxflow_register_models)
    add_plugin(made, Plugin("noisy", "test", "1", "here"), hooks)
    recipe = checked(VAE_GAN, "models.discriminator={type: noisy}", using=made)
    whole = start(recipe, tmp_path / "whole").run

    start(recipe, tmp_path / "cut", [StopAfter("batch_ended", 5)])
    second = start(recipe, tmp_path / "cut")

    assert finals(second.run) == finals(whole)


def test_two_damaged_checkpoints_do_not_displace_later_ones(checked: Checker, tmp_path: Path, straight: Any) -> None:
    recipe = checked(VAE_GAN + FLOW)
    first = start(recipe, tmp_path / "d", [StopAfter("batch_ended", 11)])
    folder = first.run.folder.path / "checkpoints"
    for checkpoint in list(folder.iterdir()):
        (checkpoint / "state.json").write_text("{}")

    second = start(recipe, tmp_path / "d", [StopAfter("batch_ended", 6)])
    third = start(recipe, tmp_path / "d")

    assert second.stopped.run_batch == 6
    assert len(list(folder.glob(".*.damaged"))) == 3  # two that were due, and the stop's own
    assert finals(third.run) == finals(straight)


def test_an_undamaged_checkpoint_that_does_not_fit_is_an_error_and_not_skipped(
    checked: Checker, tmp_path: Path
) -> None:
    start(checked(VAE_GAN), tmp_path / "d", [StopAfter("batch_ended", 5)])
    wider = checked(VAE_GAN, "models.expander.width=16")

    with pytest.raises(
        RunError, match=r"(?s)the weights do not fit model `expander` of the recipe.*size mismatch.*--fresh"
    ):
        start(wider, tmp_path / "d")


def test_a_checkpoint_is_saved_at_the_next_window_if_none_closes_on_its_batch(checked: Checker, tmp_path: Path) -> None:
    saved: list[int] = []
    recipe = checked(VAE_GAN, "steps.vae_gan.accumulate=2", "steps.vae_gan.checkpoint_every=3")

    start(recipe, tmp_path, [Saves(saved)])

    assert saved == [4, 6, 10, 12]


class Saves:
    """Collects the batches at which checkpoints are saved."""

    def __init__(self, saved: list[int]) -> None:
        self.saved = saved

    from fluxflow_registry import hookimpl

    @hookimpl
    def checkpoint_saved(self, position: Any) -> None:
        self.saved.append(position.run_batch)


def test_a_damaged_checkpoint_is_named_and_quarantined_and_the_one_before_it_is_used(
    checked: Checker, tmp_path: Path, straight: Any
) -> None:
    recipe = checked(VAE_GAN + FLOW)
    first = start(recipe, tmp_path / "damaged", [StopAfter("batch_ended", 10)])
    newest = sorted((first.run.folder.path / "checkpoints").iterdir())[-1]
    file = newest / "model.expander.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    warned: list[str] = []

    second = start(recipe, tmp_path / "damaged", [Listener(warned)])

    assert str(file) in warned[0]
    assert "the file is damaged: its size or digest differs from the manifest" in warned[0]
    assert finals(second.run) == finals(straight)


class Listener:
    """Collects warnings."""

    def __init__(self, warned: list[str]) -> None:
        self.messages = warned

    from fluxflow_registry import hookimpl

    @hookimpl
    def warned(self, message: str) -> None:
        self.messages.append(message)


def test_sibling_steps_start_from_the_end_of_their_parent(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any]
) -> None:
    base = VAE_GAN.replace("    epochs: 2", "    epochs: 1")
    branch = base.split("steps:\n")[1].replace("  vae_gan:", "  left:\n    after: vae_gan")
    right = branch.replace("left:", "right:").replace("lr: 1.0e-3", "lr: 5.0e-4")
    both, alone = base + branch + right, base + right

    first = uninterrupted(both)
    second = start(checked(alone), tmp_path / "alone").run

    found = {k.removeprefix("final/right/"): v for k, v in finals(first).items() if "/right/" in k}
    assert found == {k.removeprefix("final/"): v for k, v in finals(second).items()}
    assert {path.split("/")[1] for path in finals(first)} == {"left", "right"}


def test_a_root_step_after_others_starts_from_new_weights(checked: Checker, tmp_path: Path) -> None:
    base = VAE_GAN.replace("    epochs: 2", "    epochs: 1")
    again = base.split("steps:\n")[1].replace("  vae_gan:", "  second:\n    after: null")
    renamed = base.replace("  vae_gan:", "  second:")

    both = start(checked(base + again), tmp_path / "both").run
    alone = start(checked(renamed), tmp_path / "alone").run

    second = {k.removeprefix("final/second/"): v for k, v in finals(both).items() if "/second/" in k}
    assert second == {k.removeprefix("final/"): v for k, v in finals(alone).items()}


def test_a_folder_is_locked_by_one_run_and_a_second_run_names_the_first(tmp_path: Path) -> None:
    folder = folders.new(tmp_path, "name", "digest")
    lock = folder.lock()

    with pytest.raises(RunError, match=r"is in use by process \d+"):
        folder.lock()

    lock.close()
    folder.lock().close()


def test_a_finished_run_is_not_resumed_and_another_version_of_the_recipe_is_reported(tmp_path: Path) -> None:
    mine, other, done = (folders.new(tmp_path, "name", digest) for digest in ("mine", "other", "mine"))
    for folder, finished in ((mine, False), (other, False), (done, True)):
        folder.write_identity(finished)

    found, _ = folders.unfinished(tmp_path, "name", "mine")
    none, others = folders.unfinished(tmp_path, "name", "yours")

    assert found == mine
    assert none is None
    assert set(others) == {mine.path, other.path}
    assert json.loads((done.path / "run.json").read_text())["finished"] is True


class Counting:
    """A source whose samples are their own numbers."""

    def __len__(self) -> int:
        return 10

    def batch(self, indices: Any, seed: int) -> dict[str, Any]:
        return {"index": torch.tensor(list(indices)), "seed": [seed] * len(indices)}


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start_at", [0, 3])
def test_the_order_of_samples_does_not_depend_on_the_number_of_workers(workers: int, start_at: int) -> None:
    place = (0, "step", "data", 1)

    read = list(epoch_batches(Counting(), 2, 5, start_at, workers, place))

    assert torch.equal(torch.cat([batch.fields["index"] for batch in read]), permutation(10, *place)[2 * start_at :])


def test_every_epoch_has_its_own_order_with_each_sample_once() -> None:
    orders = [permutation(100, 0, "step", "data", epoch).tolist() for epoch in range(3)]

    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(100)) for order in orders)


def test_initial_weights_depend_only_on_the_seed_and_the_name_of_the_model(checked: Checker) -> None:
    from fluxflow_registry.engine.models.build import build_models

    device = torch.device("cpu")
    one = build_models(checked(VAE_GAN), device)
    two = build_models(checked(VAE_GAN + FLOW), device)
    other = build_models(checked(VAE_GAN, "seed=1"), device)

    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))
    assert not torch.equal(_first(one["expander"]), _first(other["expander"]))


def _first(model: nn.Module) -> torch.Tensor:
    return next(model.parameters())


def test_on_a_gpu_torch_uses_deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from fluxflow_registry.engine.graph.randomness import prefer_repeatable

    calls: list[Any] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")

    prefer_repeatable(torch.device("cpu"))
    assert calls == []
    prefer_repeatable(torch.device("cuda"))

    assert calls == [((True,), {"warn_only": True})]
    assert not torch.backends.cudnn.benchmark


def test_each_file_of_a_checkpoint_is_hashed_once_when_a_run_resumes(
    checked: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, hashed, digest = checked(VAE_GAN), Counter[Path](), disk.digest
    start(recipe, tmp_path / "run", [StopAfter("batch_ended", 5)])

    def count(path: Path) -> dict[str, Any]:
        hashed[path] += 1
        return digest(path)

    monkeypatch.setattr(disk, "digest", count)
    start(recipe, tmp_path / "run", [StopAfter("batch_ended", 1)])

    assert len(hashed) > 3
    assert set(hashed.values()) == {1}
