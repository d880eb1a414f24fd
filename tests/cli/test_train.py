"""The command trains, goes on where it was interrupted, and refuses bad input without leaving anything behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fluxflow_registry.cli.invocation import Signals
from fluxflow_registry.engine.run.folder import read_identity
from fluxflow_registry.engine.run.signals import REQUESTS, WARNINGS

from ..forked import WARM
from ..small import FLOW, VAE_GAN

#: The charts at the end are left out: they take longer than all the training.
LONG = ["--set", "steps.vae_gan.epochs=3", "--set", "observers.graphs=false"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(VAE_GAN + FLOW)
    return path


def run(*arguments: Any, cwd: Path, python: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [python or WARM.executable, "-m", "fluxflow_registry", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)


def finished(root: Path) -> list[Path]:
    return [folder for folder in root.glob("small-*") if read_identity(folder).get("finished")]


def finals(root: Path) -> dict[str, bytes]:
    (folder,) = finished(root)
    return {p.parent.name: p.read_bytes() for p in (folder / "final").rglob("*.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run of the long recipe that nothing disturbed, by a fresh interpreter, and the seconds that it took."""
    root = tmp_path_factory.mktemp("straight")
    (root / "small.yaml").write_text(VAE_GAN + FLOW)
    begun = time.monotonic()
    done = run("small.yaml", *LONG, "--output", "out", cwd=root, python=sys.executable)
    assert done.returncode == 0, done.stderr
    return root / "out", time.monotonic() - begun


@pytest.fixture
def straight(undisturbed: tuple[Path, float]) -> Path:
    return undisturbed[0]


def test_a_finished_run_holds_all_that_was_promised(straight: Path) -> None:
    (folder,) = straight.glob("small-*")

    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    environment_facts = json.loads((folder / "environment.json").read_text())
    metrics = [json.loads(line) for line in (folder / "graph/training_metrics_vae_gan.jsonl").read_text().splitlines()]
    results = json.loads((folder / "results.json").read_text())

    assert {"recipe.yaml", "environment.json", "results.json", "final/expander/config.json"} <= files
    assert json.loads((folder / "final/expander/config.json").read_text())["latent_channels"] == 2
    assert {plugin["name"] for plugin in environment_facts["plugins"]} >= {"vae", "gan", "flow"}
    assert all(len(plugin["source"]) == 64 for plugin in environment_facts["plugins"])
    assert {"vae_loss", "vae/l1", "vae/kl", "discriminator_loss", "vae/grad_norm", "vae/lr"} <= set(
        metrics[0]["metrics"]
    )
    assert "everything" in results["steps"]["flow"]["evaluations"]["seen"]
    assert not [name for name in files if name.startswith(".") and name != ".lock"]


def test_the_resolved_recipe_in_the_run_is_a_recipe_that_means_the_same(straight: Path, tmp_path: Path) -> None:
    (folder,) = straight.glob("small-*")

    again = run(folder / "recipe.yaml", "--validate", cwd=tmp_path)

    assert again.returncode == 0, again.stderr
    assert "# default" in (folder / "recipe.yaml").read_text()
    assert "# --set steps.vae_gan.epochs=3" in (folder / "recipe.yaml").read_text()


#: Batches after which there is a first checkpoint: within the first step, and within the second.
FIRST, SECOND = 6, 20


@pytest.mark.parametrize("number", [*REQUESTS, *WARNINGS], ids=lambda number: number.name)
def test_a_signal_ends_the_run_with_a_checkpoint_and_the_same_command_goes_on(
    recipe: Path, straight: Path, number: signal.Signals
) -> None:
    command = [recipe.name, *LONG, "--output", "out"]

    stopped = WARM.pause(recipe.parent, FIRST, *command)
    stopped.signal(number)
    (recipe.parent / "continue").touch()
    code = stopped.wait()
    again = run(*command, "--plugin", "pause.py", cwd=recipe.parent)

    assert code == 75, stopped.said
    assert "rerun the same command to resume" in stopped.said
    assert "Traceback" not in stopped.said
    assert again.returncode == 0, again.stderr
    assert "resum" in again.stderr.lower()
    assert finals(recipe.parent / "out") == finals(straight)


def test_a_request_to_stop_after_a_warning_does_not_stop_the_run_before_its_checkpoint(
    recipe: Path, straight: Path
) -> None:
    command = [recipe.name, *LONG, "--output", "out"]

    stopped = WARM.pause(recipe.parent, FIRST, *command)
    for number in (*WARNINGS, *WARNINGS, signal.SIGTERM):
        stopped.signal(number)
        time.sleep(0.05)
    (recipe.parent / "continue").touch()
    code = stopped.wait()
    again = run(*command, "--plugin", "pause.py", cwd=recipe.parent)

    assert code == 75, stopped.said
    assert again.returncode == 0, again.stderr
    assert finals(recipe.parent / "out") == finals(straight)


@pytest.mark.parametrize("number", WARNINGS, ids=lambda number: number.name)
def test_a_warning_that_is_ignored_when_the_command_starts_stays_ignored(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, object] = {number: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", lambda each: handlers.get(each, signal.SIG_DFL))
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)

    signals = Signals()

    assert handlers.pop(number) is signal.SIG_IGN
    assert handlers == {each: signals.handle for each in (*REQUESTS, *WARNINGS) if each != number}


def test_a_run_that_is_started_from_a_thread_trains_without_handlers_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [signal.getsignal(number) for number in (*REQUESTS, *WARNINGS)]
    thread = Thread(target=Signals)

    thread.start()
    thread.join()

    assert [signal.getsignal(number) for number in (*REQUESTS, *WARNINGS)] == before
    assert capsys.readouterr().err == (
        "note: signals are handled only in the main thread: one that ends this process saves no checkpoint\n"
    )


EXITING = """
import sys

from fluxflow_registry import hookimpl


def leaving(reconstruction):
    if {when}:
        sys.exit(0)
    return reconstruction.mean() * 0


@hookimpl
def fluxflow_register_losses(register):
    register("leaving", leaving)
"""


@pytest.mark.parametrize(("when", "code"), [("True", 2), ("reconstruction.device.type != 'meta'", 1)])
def test_a_component_that_ends_the_process_is_an_error_with_its_line(when: str, code: int, recipe: Path) -> None:
    (recipe.parent / "leave.py").write_text(EXITING.format(when=when))

    done = run(
        recipe, "--set", "steps.vae_gan.updates.vae.losses.leaving={}", "--plugin", "leave.py", cwd=recipe.parent
    )

    assert done.returncode == code, done.stderr
    assert "leave.py:9  a plugin ended the process: sys.exit(0)" in done.stderr
    assert "Traceback" not in done.stderr
    failures = [read_identity(folder).get("failed", "") for folder in (recipe.parent / "runs").glob("small-*")]
    assert ["sys.exit(0)" in failure for failure in failures] == [True] * (code == 1)


@pytest.mark.parametrize("batch", [FIRST, SECOND])
def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_weights(
    recipe: Path, straight: Path, batch: int
) -> None:
    command = [recipe.name, *LONG, "--output", "out"]

    killed = WARM.pause(recipe.parent, batch, *command)
    killed.signal(signal.SIGKILL)
    code = killed.wait()
    again = run(*command, "--plugin", "pause.py", cwd=recipe.parent)

    assert code == -signal.SIGKILL
    assert again.returncode == 0, again.stderr
    assert finals(recipe.parent / "out") == finals(straight)
    (folder,) = (recipe.parent / "out").glob("small-*")
    lines = (folder / "graph/training_metrics_vae_gan.jsonl").read_text().splitlines()
    batches = [json.loads(line)["global_step"] for line in lines if "epoch_summary" not in json.loads(line)]
    assert batches == sorted(set(batches))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_kills_change_nothing(recipe: Path, undisturbed: tuple[Path, float], seed: int) -> None:
    import random

    draw = random.Random(seed)
    straight, seconds = undisturbed
    while not finished(recipe.parent / "out"):  # a command may be killed when all is done and it only has to leave
        started = WARM.start(recipe.parent, recipe.name, *LONG, "--output", "out")
        time.sleep(draw.uniform(0.0, 1.2) * seconds)
        started.signal(signal.SIGKILL)
        assert started.wait() in (0, -signal.SIGKILL), started.said

    assert finals(recipe.parent / "out") == finals(straight)


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a missing file": (lambda p: ["nowhere.yaml"], r"nowhere.yaml  the file does not exist"),
    "a folder": (lambda p: ["."], "cannot be read: Is a directory"),
    "an empty file": (lambda p: [written(p, "")], "the file is empty"),
    "a syntax error": (lambda p: [written(p, "recipe: 1\nsteps: {a: [}\n")], "this is not valid YAML"),
    "another version": (
        lambda p: [written(p, "recipe: 2\n")],
        "`recipe` must be 1, the version of the recipe language",
    ),
    "an unwritable output folder": (
        lambda p: ["small.yaml", "--output", "/dev/null/x"],
        "cannot write to `x`: Not a directory",
    ),
    "an unknown device": (lambda p: ["small.yaml", "--device", "gpu"], "there is no device `gpu`"),
    "a device that is not there": (lambda p: ["small.yaml", "--device", "cuda:9"], "there is no device `cuda:9`"),
    "captions with bad lines": (
        lambda p: [folder_recipe(p, captions="a.png a cat\n\nb.png\ta dog\n")],
        "captions.txt:1",
    ),
    "an unreadable image": (lambda p: [folder_recipe(p, image=b"not a picture")], "a.png"),
    "a missing image folder": (lambda p: ["small.yaml", "--set", "datasets.shapes={type: folder, path: gone}"], "gone"),
    "shapes that do not fit": (
        lambda p: ["small.yaml", "--set", "models.expander.latent_channels=3"],
        "in step `vae_gan`, value `reconstruction` failed",
    ),
    "a dataset smaller than a batch": (
        lambda p: ["small.yaml", "--set", "datasets.shapes.length=3"],
        "dataset `shapes` has 3 samples, fewer than one batch (4)",
    ),
}


def written(folder: Path, text: str) -> str:
    (folder / "bad.yaml").write_text(text)
    return "bad.yaml"


def folder_recipe(folder: Path, captions: str | None = None, image: bytes | None = None) -> str:
    """A recipe on a folder of two pictures, one of which, or whose captions, are wrong."""
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (16, 16), (200, 0, 0)).save(images / f"{name}.png")
        (images / f"{name}.txt").write_text("a red square")
    if image is not None:
        (images / "a.png").write_bytes(image)
    reported = ""
    if captions is not None:
        (folder / "captions.txt").write_text(captions)
        reported = ", captions: captions.txt"
    text = VAE_GAN.replace(
        "{type: shapes, image_size: 16, length: 24}", f"{{type: folder, path: images, image_size: 16{reported}}}"
    )
    return written(folder, text)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_clear_error_and_leaves_nothing_behind(recipe: Path, case: str) -> None:
    arguments, words = BAD[case][0](recipe.parent), BAD[case][1]
    before = set(recipe.parent.rglob("*"))

    done = run(*arguments, cwd=recipe.parent)

    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert set(recipe.parent.rglob("*")) == before


def test_a_plugin_file_is_used_in_training(recipe: Path) -> None:
    (recipe.parent / "charbonnier.py").write_text(
        "from fluxflow_registry import hookimpl\n\n\n"
        "def charbonnier(reconstruction, image):\n"
        "    return ((reconstruction - image).square() + 1e-6).sqrt().mean()\n\n\n"
        "@hookimpl\n"
        "def fluxflow_register_losses(register):\n"
        "    register('charbonnier', charbonnier)\n"
    )
    settings = ["steps.vae_gan.updates.vae.losses.charbonnier={}", "steps.vae_gan.epochs=1", "observers.graphs=false"]
    given = [item for setting in settings for item in ("--set", setting)]

    done = run(recipe.name, "--plugin", "charbonnier.py", *given, "--output", "out", cwd=recipe.parent)

    assert done.returncode == 0, done.stderr
    (lines,) = (recipe.parent / "out").glob("small-*/graph/training_metrics_vae_gan.jsonl")
    assert "vae/charbonnier" in lines.read_text()
