"""A run whose folder was damaged, emptied, linked, moved or deleted: one message, and the same weights at the end."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.cli.main import run as fluxflow_run
from fluxflow_registry.state import checkpoints

from ..small import VAE_GAN
from .conftest import Answer

Call = Callable[..., Answer]

#: Stops the run after batch 5 as a signal does, or runs the code in a file `at` of an event, once.
PLUGIN = """
import shutil
from pathlib import Path
from typing import ClassVar

from attrs import frozen
from fluxflow_registry import hookimpl


@frozen
class Disturb:
    default: ClassVar[bool] = True

    def at(self, event, run):
        if Path(event).exists():
            Path(event).unlink()
            shutil.move(run.engine.folder.path, "moved")

    @hookimpl(tryfirst=True)
    def batch_ended(self, run, position):
        if position.run_batch == 5 and Path("stop").exists():
            run.engine.stopping = "the test"
        if position.run_batch == 5:
            self.at("batch_ended", run)

    @hookimpl(tryfirst=True)
    def checkpoint_saved(self, run):
        self.at("checkpoint_saved", run)

    @hookimpl(tryfirst=True)
    def epoch_ended(self, run):
        self.at("epoch_ended", run)

    @hookimpl(tryfirst=True)
    def step_ended(self, run):
        self.at("step_ended", run)

    @hookimpl(tryfirst=True)
    def run_ended(self, run):
        self.at("run_ended", run)


@hookimpl
def fluxflow_register_observers(register):
    register("disturb", Disturb)
"""

#: Six batches, a checkpoint after the fourth.
COMMAND = ["small.yaml", "--plugin", "disturb.py", "--device", "cpu"]
COMMAND += ["--set", "observers.graphs=false", "--set", "steps.vae_gan.epochs=1"]


def prepare(folder: Path) -> None:
    (folder / "small.yaml").write_text(VAE_GAN)
    (folder / "disturb.py").write_text(PLUGIN)


def only(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("small-*")
    return found


def finals(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("final/**/*.safetensors"))}


def logged(run: Path) -> list[Any]:
    lines = (run / "graph" / "training_metrics_vae_gan.jsonl").read_text().splitlines()
    return [(line["global_step"], line["metrics"]) for line in map(json.loads, lines)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a command that was stopped after batch 5, and the run of one that was not."""
    stopped, whole = (tmp_path_factory.mktemp(name) for name in ("stopped", "whole"))
    for folder, code in ((stopped, 75), (whole, 0)):
        prepare(folder)
        (folder / "stop").touch()
        if code == 0:
            (folder / "stop").unlink()
        with chdir(folder), pytest.raises(SystemExit) as left:
            fluxflow_run(COMMAND)
        assert left.value.code == code
    (stopped / "stop").unlink()
    return stopped, only(whole)


@pytest.fixture
def stopped(begun: tuple[Path, Path], tmp_path: Path) -> Path:
    """The run that was stopped, in a folder of its own."""
    shutil.copytree(begun[0], tmp_path, dirs_exist_ok=True)
    return only(tmp_path)


@pytest.fixture
def whole(begun: tuple[Path, Path]) -> Path:
    return begun[1]


#: The files that a run reads back, none of which moves a weight.
BOOKKEEPING = ("run.json", "results.json", "environment.json", "graph/training_metrics_vae_gan.jsonl", "position.json")

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "flipped bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
}

#: What may be in a file instead; twice in one with lines, whose last line may be incomplete after any crash.
CONTENTS: dict[str, bytes] = {
    "NaN": b'{"recipe": NaN, "steps": {"vae_gan": {"seconds": NaN}}, "plugins": NaN, "global_step": NaN}\n',
    "lists": b'{"recipe": [[]], "steps": [[]], "plugins": [[]], "global_step": 1, "epoch": [], "epoch_summary": {}}\n',
    "a list": b"[1, 2]\n",
    "deep nesting": b"[" * 100_000 + b"\n",
    "numbers": b'{"recipe": 1, "steps": {"vae_gan": {"seconds": 1e999}}, "plugins": 3}\n',
    "huge": b'{"global_step": ' + b"9" * 5000 + b"}\n",
}


def damaged(damage: str, name: str, content: bytes) -> bytes:
    if damage in DAMAGES:
        return DAMAGES[damage](content)
    return CONTENTS[damage] * (2 if name.endswith(".jsonl") else 1)


@pytest.mark.parametrize("damage", [*DAMAGES, *CONTENTS])
def test_damaged_bookkeeping_is_named_and_set_aside_and_training_resumes(
    damage: str, stopped: Path, whole: Path, call: Call
) -> None:
    for name in BOOKKEEPING:
        (stopped / name).write_bytes(damaged(damage, name, (stopped / name).read_bytes()))

    answer = call(*COMMAND)

    assert answer.code == 0, answer.err
    assert finals(stopped) == finals(whole)
    for path in (stopped / name for name in BOOKKEEPING if name != "position.json"):
        # A log may be empty, and its last line incomplete.
        if path.suffix != ".jsonl" or damage not in ("emptied", "cut in half", "zeros"):
            assert f"`{path.name}` " in answer.err
            assert f"quarantined as .{path.name}.damaged" in answer.err
    assert json.loads((stopped / "run.json").read_text())["finished"] is True


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder"])
def test_what_is_not_a_file_of_the_run_is_never_written_to_and_never_read(
    kind: str, stopped: Path, whole: Path, call: Call, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = [*BOOKKEEPING, "recipe.yaml"]
    for name in [*names, *(f"{Path(name).parent}/.{Path(name).name}.writing" for name in names)]:
        path = stopped / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder" and not name.endswith(".writing"):
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "device" else victim)

    answer = call(*COMMAND)

    assert victim.read_text() == "precious"
    assert answer.code in (0, 2), answer.err
    if answer.code == 0:
        assert finals(stopped) == finals(whole)
    else:
        assert kind == "folder"
        assert "Is a directory" in answer.err


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_not_a_file_is_an_error_that_says_what_to_do(
    kind: str, stopped: Path, call: Call, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (stopped / ".lock").unlink()
    os.mkfifo(stopped / ".lock") if kind == "pipe" else (stopped / ".lock").symlink_to(victim)

    answer = call(*COMMAND)

    assert answer.code == 2
    lock = (stopped / ".lock").relative_to(tmp_path)
    assert answer.err.startswith(f"{lock}  cannot open the lock file of the run: it is not a regular file\n")
    assert "hint  remove it: it was not created by a run" in answer.err
    assert victim.read_text() == "precious"


def test_a_run_without_its_record_is_found_by_its_checkpoints(stopped: Path, whole: Path, call: Call) -> None:
    (stopped / "run.json").unlink()

    answer = call(*COMMAND)

    assert answer.code == 0
    assert "has no run.json; its checkpoints show that it trains this recipe\n" in answer.err
    assert finals(stopped) == finals(whole)


def test_a_damaged_record_without_a_checkpoint_is_reported_and_left_alone(
    stopped: Path, call: Call, tmp_path: Path
) -> None:
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "run.json").write_bytes(b"")

    answer = call(*COMMAND)

    assert answer.code == 0
    name = stopped.relative_to(tmp_path)
    assert (
        f"note: {name} is a run whose run.json is damaged, and no checkpoint names its recipe; it stays" in answer.err
    )
    assert (stopped / "run.json").read_bytes() == b""
    assert len(list((tmp_path / "runs").glob("small-*"))) == 2


def test_a_checkpoint_of_another_recipe_is_not_used(stopped: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    other = [*COMMAND, "--set", "steps.vae_gan.updates.vae.optimizer.lr=0.5", "--output", "others"]
    assert call(*other).code == 75
    (tmp_path / "stop").unlink()
    (source,) = (tmp_path / "others").glob("small-*")
    shutil.rmtree(stopped / "checkpoints")
    shutil.copytree(source / "checkpoints", stopped / "checkpoints")
    before = sorted(path.name for path in (stopped / "checkpoints").iterdir())

    answer = call(*COMMAND)

    assert answer.code == 2
    assert "000000005-vae_gan-stop  the checkpoint belongs to another recipe\n" in answer.err
    assert "it was saved by a run of recipe " in answer.err
    assert "move it out of the folder, or start over with --fresh" in answer.err
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("name", ["checkpoints", "final", "not_finite", "final/compressor"])
@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_a_file_in_the_place_of_a_folder_is_reported_before_training(
    name: str, kind: str, stopped: Path, call: Call
) -> None:
    path = stopped / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    path.touch() if kind == "file" else path.symlink_to("nothing")

    answer = call(*COMMAND)

    assert answer.code == 2
    assert f"`{path.name}` is not a folder, but files are written into it\n    hint  move it away" in answer.err
    assert "STEP 1" not in answer.err


@pytest.mark.parametrize(("output", "message"), [("file", "is not a folder"), ("a\0b", "contains a NUL character")])
def test_an_output_that_cannot_be_a_folder_is_reported_before_training(
    output: str, message: str, call: Call, tmp_path: Path
) -> None:
    prepare(tmp_path)
    (tmp_path / "file").touch()

    answer = call(*COMMAND, "--output", output)

    assert answer.code == 2
    assert message in answer.err


@pytest.mark.parametrize("event", ["batch_ended", "checkpoint_saved", "epoch_ended", "step_ended", "run_ended"])
def test_a_folder_that_is_moved_away_ends_the_run_and_moved_back_it_resumes(
    event: str, whole: Path, call: Call, tmp_path: Path
) -> None:
    prepare(tmp_path)
    (tmp_path / event).touch()

    answer = call(*COMMAND)
    left = list((tmp_path / "runs").iterdir())
    (tmp_path / "moved").rename(tmp_path / "runs" / "small-moved")
    again = call(*COMMAND)

    assert answer.code == 1, answer.err
    assert "the folder of the run was deleted or moved while it was being trained\n" in answer.err
    assert "if the folder was moved, move it back and rerun the same command to resume" in answer.err
    assert "observer `" not in answer.err
    assert left == []
    assert again.code == 0, again.err
    assert finals(tmp_path / "runs" / "small-moved") == finals(whole)


def test_on_a_disk_without_syncs_and_locks_a_run_prints_what_that_means_and_trains(
    whole: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(fcntl, "flock", fail)
    prepare(tmp_path)

    answer = call(*COMMAND)

    notes = [line for line in answer.err.splitlines() if "on this disk" in line]
    assert answer.code == 0, answer.err
    assert finals(only(tmp_path)) == finals(whole)
    assert [note.partition(" on this disk: ")[0].rpartition(": ")[2] for note in notes] == [
        "files cannot be locked",
        "files cannot be synced",
    ]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What of each file has reached the disk, by its last sync."""
    content: dict[str, bytes] = {}
    real = os.fsync

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.endswith(".jsonl"):
            content[path] = Path(path).read_bytes()
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return content


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see which file is synced")
def test_after_a_power_cut_a_resumed_run_has_logged_the_same_lines(
    whole: Path, call: Call, tmp_path: Path, synced: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = checkpoints.put
    prepare(tmp_path)

    def put_and_end(working: Path, final: Path) -> None:
        put(working, final)
        if final.name == "000000004-vae_gan":
            synced["at the cut"] = next(iter(synced.values()))

    monkeypatch.setattr(checkpoints, "put", put_and_end)
    monkeypatch.setattr("fluxflow_registry.state.store.put", put_and_end)
    (tmp_path / "stop").touch()

    assert call(*COMMAND).code == 75
    (tmp_path / "stop").unlink()
    run = only(tmp_path)
    shutil.rmtree(run / "checkpoints" / "000000005-vae_gan-stop")
    (run / "graph" / "training_metrics_vae_gan.jsonl").write_bytes(synced["at the cut"])
    again = call(*COMMAND)

    assert again.code == 0, again.err
    assert logged(run) == logged(whole)
    assert finals(run) == finals(whole)
