"""`--prove-resume` passes where a resumed run is the same, and names the component where it is not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..forked import WARM, group_is_gone
from ..small import FLOW, VAE_GAN
from .test_train import environment

REPOSITORY = Path(__file__).resolve().parents[2]

#: Components that keep something between batches: one that says so, and some that do not.
KEEPING = '''
import torch
from attrs import define, field, frozen
from fluxflow_registry import Ending, Field, hookimpl


@define
class Running:
    """Divided by its own running mean, which it saves."""

    mean: float = field(init=False, default=1.0)

    def __call__(self, reconstruction, image):
        now = (reconstruction - image).square().mean()
        self.mean = 0.9 * self.mean + 0.1 * float(now.detach())
        return now / self.mean

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


@define
class Jitter:
    """Multiplied by numbers from a generator of its own."""

    own: torch.Generator = field(init=False, factory=lambda: torch.Generator().manual_seed(0))

    def __call__(self, reconstruction, image):
        return (reconstruction - image).square().mean() * torch.rand((), generator=self.own)


@define
class Drifting:
    """A value that counts how often it was asked."""

    asked: int = field(init=False, default=0)

    def __call__(self, reconstruction):
        self.asked += 1
        return reconstruction * (1 + 0.01 * self.asked)


@define
class Learning:
    """A weigher that learns, and does not say so."""

    def __call__(self, losses):
        from math import log1p
        calls = []

        def weigh(values):
            calls.append(1)
            return {name: log1p(len(calls)) for name in values}

        return weigh


@frozen
class Streaming:
    """A dataset that goes on where it stopped, in its own mind."""

    def fields(self):
        return {"image": Field((3, 16, 16)), "caption": Field(None, "text")}

    def __call__(self):
        return Stream()


class Stream:
    """Gives whatever comes next."""

    given = 0

    def __len__(self):
        return 64

    def batch(self, indices, seed):
        self.given += 1
        draw = torch.Generator().manual_seed(self.given)
        image = torch.rand(len(indices), 3, 16, 16, generator=draw) * 2 - 1
        return {"image": image, "caption": ["a picture"] * len(indices)}


@define
class Counting:
    """A transition that counts how often it was asked, and hides it."""

    calls_max: int = 4
    calls: int = field(init=False, default=0)

    def __call__(self, epoch):
        self.calls += 1
        return Ending(f"asked {self.calls} times") if self.calls >= self.calls_max else None


@define
class CountingOpenly(Counting):
    """The same, but it saves its count."""

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


@hookimpl
def fluxflow_register_transitions(register):
    register("counting", Counting)
    register("counting_openly", CountingOpenly)


@hookimpl
def fluxflow_register_losses(register):
    register("running", Running)
    register("jitter", Jitter)


@hookimpl
def fluxflow_register_values(register):
    register("drift", Drifting)


@hookimpl
def fluxflow_register_balancers(register):
    register("learning", Learning)


@hookimpl
def fluxflow_register_datasets(register):
    register("streaming", Streaming)
'''

VAE = "steps.vae_gan.updates.vae"


def prove(folder: Path, recipe: Path, *settings: str, flags: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    changes = [word for setting in settings for word in ("--set", setting)]
    command = [WARM.executable, "-m", "fluxflow_registry", str(recipe), "--prove-resume", *changes, *flags]
    plugin = folder / "keeping.py"
    if plugin.exists():
        command += ["--plugin", "keeping.py"]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    (tmp_path / "keeping.py").write_text(KEEPING)
    return tmp_path


def test_a_component_that_saves_what_it_keeps_passes_and_nothing_is_left_behind(folder: Path) -> None:
    settings = (f"{VAE}.losses.running={{}}", "steps.vae_gan.until=counting_openly", "steps.vae_gan.accumulate=2")

    done = prove(folder, Path("small.yaml"), *settings)

    assert done.returncode == 0, done.stderr
    assert "killed while writing the next checkpoint\n" in done.stderr
    assert "killed after 10 batches of step `vae_gan`\n" in done.stderr
    assert done.stdout.startswith("identical bit by bit, after 3 interruptions:\n         12  batches\n")
    assert list((folder / "runs").iterdir()) == []


GUILTY = {
    "a loss": ([f"{VAE}.losses.jitter={{}}"], "loss `vae/jitter`, from the same values", "loss `jitter`"),
    "a value": (
        ["values={drift: {}}", f"{VAE}.losses.l1={{with: {{reconstruction: drift}}}}"],
        "value `drift`, from the same inputs",
        "value `drift`",
    ),
    "a balancer": (
        [f"{VAE}.balancer={{type: learning}}"],
        "the weighted sum of update `vae`, from the same losses",
        "balancer `learning`",
    ),
    "a transition": (
        ["steps.vae_gan.until=counting"],
        "what transition `counting` keeps in `calls`",
        "transition `counting`",
    ),
    "a dataset": (["datasets.shapes={type: streaming}"], "field `image` of the same samples", "dataset `streaming`"),
}


def test_the_first_difference_and_the_component_that_causes_it_are_reported_as_data(folder: Path) -> None:
    settings, first, component = GUILTY["a dataset"]

    done = prove(folder, Path("small.yaml"), *settings, flags=["--json"])
    reported = json.loads(done.stdout)

    assert done.returncode == 1, done.stderr
    assert reported["same"] is False
    assert (reported["first"]["kind"], reported["first"]["name"]) == ("field", "image")
    explanation = "\n".join(reported["first"]["explanation"])
    assert explanation.startswith("a resumed run differs at batch ")
    assert f"first       {first}" in explanation
    assert f"component   {component}" in explanation
    assert "it keeps state outside checkpoints" in explanation


@pytest.mark.slow
@pytest.mark.parametrize("who", list(GUILTY))
def test_a_component_with_a_hidden_state_is_found_and_named(folder: Path, who: str) -> None:
    settings, first, component = GUILTY[who]

    done = prove(folder, Path("small.yaml"), *settings)

    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("a resumed run differs at batch ")
    assert f"first       {first}" in done.stdout
    assert f"component   {component}" in done.stdout
    assert "it keeps state outside checkpoints" in done.stdout


def test_a_recipe_that_fails_in_training_is_reported_unchanged(folder: Path) -> None:
    (folder / "keeping.py").write_text(KEEPING.replace("now / self.mean", "now.missing"))

    done = prove(folder, Path("small.yaml"), f"{VAE}.losses.running={{}}")

    assert done.returncode == 1
    assert "a run of the proof failed" in done.stderr
    assert "failed: AttributeError" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_default_recipe_resumes_exactly(tmp_path: Path) -> None:
    done = prove(tmp_path, REPOSITORY / "recipes" / "vae_gan_flow.yaml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical bit by bit, after 5 interruptions" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", sorted((REPOSITORY / "recipes/small").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_small_form_of_every_recipe_resumes_exactly(tmp_path: Path, recipe: Path) -> None:
    done = prove(tmp_path, recipe)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"identical bit by bit, after \d+ interruptions", done.stdout)


@pytest.mark.slow
def test_flow_and_averages_resume_exactly_with_workers(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(VAE_GAN + FLOW)

    done = prove(tmp_path, Path("small.yaml"), "steps.vae_gan.workers=2", "steps.flow.workers=1")

    assert done.returncode == 0, done.stdout + done.stderr


#: A plugin that is loaded in no time by the command, and takes a minute in each process of the proof.
SLOW = """
import os, time
from multiprocessing import parent_process
from pathlib import Path

from fluxflow_registry import hookimpl

if parent_process() is not None:
    Path("writing").write_text(str(os.getpid()))
    Path("writing").rename("started")
    time.sleep(60)


@hookimpl
def fluxflow_register_losses(register):
    pass
"""


def test_an_interrupted_proof_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    (tmp_path / "slow.py").write_text(SLOW)
    started = tmp_path / "started"
    command = [WARM.executable, "-m", "fluxflow_registry", "small.yaml", "--prove-resume", "--plugin", "slow.py"]
    proof = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(started.read_text())

    proof.send_signal(signal.SIGINT)  # to the command alone, as `kill -INT` does
    try:
        _, err = proof.communicate(timeout=20)
    finally:
        proof.kill()

    assert proof.returncode == 130
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL], ids=lambda n: n.name
)
def test_a_proof_that_a_signal_ends_leaves_no_process_and_no_folder_behind(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "proof"
    folder.mkdir()
    (folder / "small.yaml").write_text(VAE_GAN)
    (folder / "slow.py").write_text(SLOW)
    proof = WARM.start(folder, "small.yaml", "--prove-resume", "--plugin", "slow.py")
    while not (folder / "started").exists():
        assert not proof.ended(), proof.said
        time.sleep(0.05)

    proof.signal(number)  # to the command alone

    assert proof.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert group_is_gone(proof.pid, 30)
    assert list((folder / "runs").iterdir()) == []
    assert "Traceback" not in proof.said
    if number != signal.SIGKILL:
        assert proof.said.splitlines()[-1] == f"{signal.Signals(number).name}: stopped"
