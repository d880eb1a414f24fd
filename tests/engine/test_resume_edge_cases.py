"""Edge cases of resuming: components with state, buffers that change or are infinite, damage in needed files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import define, field
from torch import Tensor, nn

from fluxflow_registry import Ending, hookimpl
from fluxflow_registry.engine.data import workers as working
from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.engine.run.checkpoints import Saver
from fluxflow_registry.errors import DataError, RunError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry
from fluxflow_registry.state import checkpoints

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import StopAfter, start
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]


@define
class Patient:
    """A transition that counts how often it was called."""

    calls: int = field(init=False, default=0)

    def __call__(self, history: Any) -> Ending | None:
        self.calls += 1
        assert history["vae_loss"]
        return Ending("called often enough") if self.calls >= 4 else None

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


@define
class Running:
    """A value that counts how often it was computed, and returns the count."""

    calls: int = field(init=False, default=0)

    def __call__(self, reconstruction: Tensor) -> Tensor:
        self.calls += 1
        return reconstruction * (1 + 0.01 * self.calls)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Counts(nn.Module):
    """A decoder with a buffer that is replaced at each call, and a mask that is not finite."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(2, 3, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, latent: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + latent.detach().mean()
        pictures: Tensor = nn.functional.interpolate(self.out(latent), scale_factor=4)
        return pictures + self.mean


def counts() -> nn.Module:
    return Counts()


@pytest.fixture
def registry_of() -> Registry:
    """The components above, for a test that adds its own."""
    return corners()


@pytest.fixture(scope="module")
def unchanged() -> Registry:
    """The components above, for runs that several tests share."""
    return corners()


def corners() -> Registry:
    @hookimpl
    def fluxflow_register_transitions(register: Any) -> None:
        register("patient", Patient)

    @hookimpl
    def fluxflow_register_values(register: Any) -> None:
        register("running", Running)

    @hookimpl
    def fluxflow_register_models(register: Any) -> None:
        register("counts", counts)

    made = load(PLUGINS)
    hooks = SimpleNamespace(
        fluxflow_register_transitions=fluxflow_register_transitions,
        fluxflow_register_values=fluxflow_register_values,
        fluxflow_register_models=fluxflow_register_models,
    )
    add_plugin(made, Plugin("corners", "test", "1", "here"), hooks)
    return made


def often(recipe: Callable[[], RecipePlan], root: Path, event: str = "batch_ended", count: int = 1) -> tuple[Any, int]:
    """Stop and resume until the end; components are created anew each time, as in a new process."""
    stops = 0
    while (attempt := start(recipe(), root, [StopAfter(event, count)])).stopped is not None:
        stops += 1
        assert stops < 100
    return attempt.run, stops


def test_a_transition_with_state_is_called_once_per_epoch_even_if_the_run_is_stopped(
    checked: Checker, tmp_path: Path, registry_of: Registry
) -> None:
    settings = ("steps.vae_gan.until={type: patient}", "steps.vae_gan.epochs=9")
    recipe = partial(checked, VAE_GAN, *settings, using=registry_of)
    whole = start(recipe(), tmp_path / "whole").run

    again, stops = often(recipe, tmp_path / "often")

    assert stops >= 20
    assert whole.live.metrics.history == again.live.metrics.history
    assert finals(again) == finals(whole)


@pytest.mark.parametrize("returned", [True, False, "over"])
@pytest.mark.parametrize("key", ["until", "updates.vae.losses.hinge_generator.start"])
def test_a_transition_that_returns_no_ending_is_named(
    checked: Checker, tmp_path: Path, registry_of: Registry, returned: Any, key: str
) -> None:
    @hookimpl
    def fluxflow_register_transitions(register: Any) -> None:
        register("odd", lambda epoch: returned)

    add_plugin(
        registry_of,
        Plugin("odd", "test", "1", "here"),
        SimpleNamespace(fluxflow_register_transitions=fluxflow_register_transitions),
    )

    kind = type(returned).__name__
    message = rf"(?s)transition `odd` returned a {kind} after epoch 1; return an Ending or None\n +defined in  .*\.py:"
    with pytest.raises(TrainingError, match=message):
        start(checked(VAE_GAN, f"steps.vae_gan.{key}=odd", using=registry_of), tmp_path)


def test_a_transition_that_fails_is_named(checked: Checker, tmp_path: Path, registry_of: Registry) -> None:
    @hookimpl
    def fluxflow_register_transitions(register: Any) -> None:
        register("broken", lambda history: history["nothing"])

    add_plugin(
        registry_of,
        Plugin("broken", "test", "1", "here"),
        SimpleNamespace(fluxflow_register_transitions=fluxflow_register_transitions),
    )

    with pytest.raises(TrainingError, match="transition `broken` failed after epoch 1: KeyError: 'nothing'"):
        start(checked(VAE_GAN, "steps.vae_gan.until={type: broken}", using=registry_of), tmp_path)


@pytest.mark.parametrize(("settings", "limit"), [([], 2), (["steps.vae_gan.epochs=4"], 4)])
def test_a_transition_that_never_ends_a_step_ends_with_the_epochs_of_the_step(
    checked: Checker, tmp_path: Path, registry_of: Registry, settings: list[str], limit: int
) -> None:
    hooks = plugin(transitions={"endless": lambda epoch: None})
    add_plugin(registry_of, Plugin("endless", "test", "1", "here"), hooks)
    warned: list[str] = []

    run = start(
        checked(VAE_GAN, "steps.vae_gan.until=endless", *settings, using=registry_of), tmp_path, [Listener(warned)]
    ).run

    assert len(run.live.metrics.history["vae_loss"]) == limit
    assert warned == [
        f"step `vae_gan` ends because it reached its limit: {limit} epochs without an end by transition `endless`"
    ]


def test_a_logged_learning_rate_is_the_one_of_its_batch(checked: Checker, tmp_path: Path) -> None:
    lines: dict[int, dict[str, float]] = {}
    settings = ("defaults.log_every=1", "steps.vae_gan.updates.vae.scheduler={type: LinearLR, interval: batch, "
                "start_factor: 1.0, end_factor: 0.0}")  # fmt: skip

    start(checked(VAE_GAN, *settings), tmp_path, [Logged(lines)])

    rates = [lines[batch]["vae/lr"] for batch in range(1, 13)]
    assert rates == pytest.approx([1e-3 * (1 - passed / 12) for passed in range(12)])


EVALUATED = (
    "steps.vae_gan.evaluate={seen: {dataset: shapes, samples: 8, batch_size: 2, every: 1, "
    "metrics: {psnr: {with: {reconstruction: running}}}}}"
)


@pytest.mark.parametrize("stop", [("evaluated", 1), ("epoch_ended", 1), ("batch_ended", 9), ("step_ended", 1)])
def test_an_evaluation_does_not_change_the_state_of_values(
    checked: Checker, tmp_path: Path, unchanged: Registry, uninterrupted: Callable[..., Any], stop: tuple[str, int]
) -> None:
    losses = "steps.vae_gan.updates.vae.losses.l1={with: {reconstruction: running}}"
    settings = ["values={running: {}}", EVALUATED, losses]
    recipe = partial(checked, VAE_GAN, *settings, using=unchanged)
    unmeasured = uninterrupted(VAE_GAN, "values={running: {}}", losses, using=unchanged)
    whole = uninterrupted(VAE_GAN, *settings, using=unchanged)

    start(recipe(), tmp_path / "cut", [StopAfter(*stop)])
    again = start(recipe(), tmp_path / "cut").run

    assert finals(again) == finals(whole) == finals(unmeasured)


def test_buffers_that_are_replaced_and_not_changed_in_place_are_averaged_and_resumed(
    checked: Checker, tmp_path: Path, registry_of: Registry
) -> None:
    settings = ["models.expander={type: counts}", "steps.vae_gan.ema={models: [expander]}"]
    recipe = partial(checked, VAE_GAN, *settings, using=registry_of)
    whole = start(recipe(), tmp_path / "whole").run

    again, _ = often(recipe, tmp_path / "often", count=4)

    assert finals(again) == finals(whole)
    average = whole.live.averages["expander"].module
    assert torch.equal(average.mean, whole.models["expander"].mean)
    assert not torch.equal(average.mean, torch.zeros(()))


def test_an_untrained_model_whose_buffers_change_is_saved_again(
    checked: Checker, tmp_path: Path, registry_of: Registry
) -> None:
    @hookimpl
    def fluxflow_register_values(register: Any) -> None:
        register("seen_by", lambda reconstruction, counter: reconstruction + 0 * counter(torch.ones(1, 2, 1, 1)).mean())

    hooks = SimpleNamespace(fluxflow_register_values=fluxflow_register_values)
    add_plugin(registry_of, Plugin("seen", "test", "1", "here"), hooks)
    losses = "steps.vae_gan.updates.vae.losses.l1={with: {reconstruction: seen_by}}"
    recipe = partial(checked, VAE_GAN, "models.counter={type: counts}", losses, using=registry_of)
    whole = start(recipe(), tmp_path / "whole").run

    again, _ = often(recipe, tmp_path / "often", count=5)

    assert finals(again) == finals(whole)


def test_a_buffer_of_infinities_does_not_mark_a_checkpoint_as_not_finite(
    checked: Checker, tmp_path: Path, registry_of: Registry
) -> None:
    recipe = checked(VAE_GAN, "models.expander={type: counts}", using=registry_of)

    run = start(recipe, tmp_path, [StopAfter("batch_ended", 9)]).run

    assert all(checkpoints.is_finite(found.folder) for found in checkpoints.listing(run.folder.checkpoints))


def test_a_checkpoint_of_a_newer_version_is_rejected_and_not_quarantined(checked: Checker, tmp_path: Path) -> None:
    run = start(checked(VAE_GAN), tmp_path, [StopAfter("batch_ended", 9)]).run
    root = run.folder.checkpoints
    before = sorted(path.name for path in root.iterdir())
    for folder in root.iterdir():
        manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
        manifest["format"] = 99
        manifest["digest"] = checkpoints.own_digest(manifest)
        (folder / checkpoints.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(RunError, match="the checkpoint has format 99, but this version reads format 1"):
        start(checked(VAE_GAN), tmp_path)

    assert sorted(path.name for path in root.iterdir()) == before


def test_a_checkpoint_without_read_permission_is_not_damaged(
    checked: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(checked(VAE_GAN), tmp_path, [StopAfter("batch_ended", 9)]).run
    before = sorted(path.name for path in run.folder.checkpoints.iterdir())
    opened = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> Any:
        if Path(path).suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match="cannot read a file of the checkpoint: Permission denied"):
        start(checked(VAE_GAN), tmp_path)

    assert sorted(path.name for path in run.folder.checkpoints.iterdir()) == before


def siblings() -> str:
    base = VAE_GAN.replace("    epochs: 2", "    epochs: 1")
    branch = base.split("steps:\n")[1].replace("  vae_gan:", "  left:\n    after: vae_gan")
    return base + branch + branch.replace("left:", "right:").replace("lr: 1.0e-3", "lr: 5.0e-4")


@pytest.mark.parametrize("end", ["vae_gan", "left"])
@pytest.mark.parametrize("after", [9, 14])
def test_a_step_whose_end_is_damaged_and_still_needed_is_trained_again(
    checked: Checker, tmp_path: Path, uninterrupted: Callable[..., Any], end: str, after: int
) -> None:
    recipe = checked(siblings())
    whole = uninterrupted(siblings())
    run = start(recipe, tmp_path / "cut", [StopAfter("batch_ended", after)]).run
    damaged = [f for f in checkpoints.listing(run.folder.checkpoints) if f.kind == "end" and f.step == end]
    for found in damaged:
        (found.folder / "model.expander.safetensors").write_bytes(b"")
    warned: list[str] = []

    again = start(recipe, tmp_path / "cut", [Listener(warned)]).run

    assert finals(again) == finals(whole)
    assert any("model.expander.safetensors  the file is damaged" in message for message in warned) == bool(damaged)
    assert any(
        f"step `{end}` is trained again from the checkpoint before its end" in message for message in warned
    ) == bool(damaged)


class Failing:
    """An observer that cannot write."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def metrics_logged(self) -> None:
        self.calls += 1
        raise OSError(28, "No space left on device")


def test_an_observer_that_cannot_write_is_only_a_warning(checked: Checker, tmp_path: Path) -> None:
    warned: list[str] = []
    failing = Failing()

    run = start(checked(VAE_GAN), tmp_path, [failing, Listener(warned)]).run

    assert failing.calls == 6
    assert len(warned) == 1
    assert "failed in `metrics_logged`: OSError: [Errno 28] No space left on device; training continues" in warned[0]
    assert finals(run)


class Logged:
    """Collects the logged metrics."""

    def __init__(self, lines: dict[int, dict[str, float]]) -> None:
        self.lines = lines

    @hookimpl
    def metrics_logged(self, position: Any, metrics: dict[str, float]) -> None:
        self.lines[position.run_batch] = dict(metrics)


@pytest.mark.parametrize("settings", [[], ["steps.vae_gan.accumulate=2", "defaults.log_every=3"]])
def test_a_stopped_and_resumed_run_logs_the_same_metrics(checked: Checker, tmp_path: Path, settings: list[str]) -> None:
    recipe = checked(VAE_GAN, *settings)
    whole: dict[int, dict[str, float]] = {}
    cut: dict[int, dict[str, float]] = {}
    start(recipe, tmp_path / "whole", [Logged(whole)])

    # A stop within a window of batches undoes it, so that only every second one may be.
    for number in count():
        if not start(recipe, tmp_path / "cut", [Logged(cut), StopAfter("batch_ended", 1 + number % 2)]).stopped:
            break

    assert cut == whole
    assert any("discriminator/r1" in line for line in whole.values())


class Unpicklable:
    """A source whose batches cannot be sent by another process."""

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Any, seed: int) -> dict[str, Any]:
        return {"number": torch.tensor(list(indices)), "open": [lambda: None for _ in indices]}


def test_a_batch_that_a_worker_cannot_send_is_an_error_and_not_an_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "RESTARTS", 0)

    with pytest.raises(DataError, match=r"died 1 time in a row \(exit code 70\)"):
        list(epoch_batches(Unpicklable(), 2, 4, 0, 1, (0,)))


def test_a_failure_in_the_writing_thread_is_reported_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.contracts import Position
    from fluxflow_registry.state import store

    state = {"model": {"net": {"w": torch.zeros(2)}}}
    saver = Saver(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(13, "Permission denied")

    def broken(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoints, "retain", full)
    saver.start("000000001-s", Position(), state, {}, (), 1)
    kept = saver.wait()
    monkeypatch.setattr(store, "write_tensors", broken)
    saver.start("000000002-s", Position(), state, {}, (), 1)
    failed = saver.wait()
    saver.close()

    assert kept is not None
    assert kept.error is None
    assert failed is not None
    assert "cannot write the checkpoint: MemoryError" in str(failed.error)


def test_a_tensor_that_cannot_be_saved_is_named_at_the_first_checkpoint(
    checked: Checker, tmp_path: Path, registry_of: Registry
) -> None:
    odd = nn.Module()
    odd.register_buffer("turns", torch.zeros(2, dtype=torch.complex128))

    @hookimpl
    def fluxflow_register_models(register: Any) -> None:
        register("odd", lambda: odd)

    hooks = SimpleNamespace(fluxflow_register_models=fluxflow_register_models)
    add_plugin(registry_of, Plugin("odd", "test", "1", "here"), hooks)

    message = r"the state of model `spare` contains `turns`, a tensor of torch.complex128, which cannot be saved"
    with pytest.raises(RunError, match=message):
        start(checked(VAE_GAN, "models.spare={type: odd}", using=registry_of), tmp_path)


def test_an_observer_that_samples_while_the_run_stops_does_not_silence_the_others(
    checked: Checker, tmp_path: Path
) -> None:
    from .test_interrupted_sampling import Samples

    recipe = checked(VAE_GAN + FLOW)
    lines: dict[int, dict[str, float]] = {}

    stopped = start(recipe, tmp_path, [Logged(lines), Samples("metrics_logged", 2)])

    assert stopped.stopped is not None
    assert stopped.stopped.run_batch in lines
