"""`--status` tells where a run stands from its folder alone, whatever is in it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from fluxflow_registry.cli.plugins_of_run import plugin_rows
from fluxflow_registry.cli.run_status import read_status
from fluxflow_registry.cli.status import WHY, summaries
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.folder import RunFolder, lock_owner
from fluxflow_registry.errors import FluxflowError
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import checkpoints, disk, store

from ..forked import WARM
from ..small import VAE_GAN
from .conftest import Answer

Call = Callable[..., Answer]

DIGEST = "0123456789abcdef" * 4
STEPS = [{"name": "vae", "epochs": 5, "batches": 6}, {"name": "flow", "epochs": 2, "batches": 10}]
COMMAND = "fluxflow-run small.yaml --output runs"


def run_folder(root: Path, name: str = "small-20260801-120000", digest: str = DIGEST) -> RunFolder:
    """The folder of a run that has just been started in `root`."""
    folder = RunFolder(root / name, digest)
    folder.path.mkdir(parents=True)
    facts = {"name": "small", "steps": STEPS, "command": COMMAND, "directory": str(root.parent)}
    folder.write_identity(finished=False, facts=facts)
    return folder


def save(folder: RunFolder, position: Position, kind: checkpoints.Kind = "due", **meta: Any) -> Path:
    """A checkpoint of a run, as the engine writes it."""
    place = {name: getattr(position, name) for name in ("step", "epoch", "batch", "step_batch", "run_batch")}
    name = checkpoints.name_of(position.run_batch, "vae", kind)
    state = {"model": {"expander": {"weight": torch.ones(3)}}}
    reported = {"position": place, "step": "vae", "results": {}, "damaged": {}, **meta}
    return store.save(folder.checkpoints, name, state, reported)


def at(batch: int) -> Position:
    """After so many batches of the first step."""
    return Position(0, batch // 6, batch % 6, batch, batch)


def spoil(checkpoint: Path) -> None:
    path = checkpoint / "model.expander.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def words(answer: Answer) -> str:
    """What a command has reported, without the spaces that align it."""
    assert answer.code == 0, answer.err
    return "\n".join(" ".join(line.split()) for line in answer.out.splitlines())


@pytest.fixture
def folder(call: Call, tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path / "runs")


def test_a_run_that_has_saved_nothing(call: Call, folder: RunFolder) -> None:
    reported = words(call("--status", folder.path))

    assert f"run {folder.path}\nstate not running: nothing has been saved yet\n" in reported
    assert "recipe `small`, see recipe.yaml (identity 0123456789ab)" in reported
    assert "last checkpoint\nkept no checkpoint\n" in reported
    assert (
        f"to resume\nfrom the beginning: there is no checkpoint\nrepeating no logged batches\ncommand {COMMAND}"
        in reported
    )


def test_the_status_says_of_every_kind_of_checkpoint_why_it_was_saved() -> None:
    assert set(WHY) == set(get_args(checkpoints.Kind))


def test_a_run_that_failed_tells_the_error_until_it_is_started_again(call: Call, folder: RunFolder) -> None:
    save(folder, at(4))
    folder.record_position(at(6))
    folder.write_failure("metric `mae` failed: ValueError: nothing\n    defined in  own.py:6")

    reported = words(call("--status", folder.path))
    line = call("--status", folder.path.parent).out
    data = json.loads(call("--status", folder.path, "--json").out)
    folder.write_identity(finished=False, facts={"name": "small", "steps": STEPS})
    again = words(call("--status", folder.path))

    assert "state not running: stopped by an error\nerror metric `mae` failed: ValueError: nothing\n" in reported
    assert "defined in own.py:6\nrecipe" in reported
    assert f"first fix the cause of the error, or the command will fail again\ncommand {COMMAND}" in reported
    assert line.startswith("small-20260801-120000  failed  ")
    assert data["state"] == "failed"
    assert data["record"]["failed"].startswith("metric `mae` failed")
    assert "error" not in again


def test_a_checkpoint_of_another_recipe_is_named_as_what_resuming_fails_at(call: Call, folder: RunFolder) -> None:
    save(folder, at(4), recipe="fedcba9876543210" * 4)

    reported = words(call("--status", folder.path))
    data = json.loads(call("--status", folder.path, "--json").out)

    assert "to resume\nfrom nothing: 000000004-vae belongs to another recipe; move it out of the folder" in reported
    assert data["resume"]["foreign"] == "000000004-vae"
    assert data["resume"]["checkpoint"] is None


FAILING = """
from fluxflow_registry import hookimpl

calls = []

def failing(epoch):
    calls.append(epoch)
    if len(calls) > 1:  # the first one is tried before training
        raise KeyError("nothing")

@hookimpl
def fluxflow_register_transitions(register):
    register("failing", failing)
"""


def test_a_real_run_that_fails_right_after_a_checkpoint_is_no_stopped_one(call: Call, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    (tmp_path / "failing.py").write_text(FAILING)
    given = ("--set", "steps.vae_gan.until=failing", "--set", "defaults.checkpoint_every=2")

    ended = call("small.yaml", "--plugin", "failing.py", "--device", "cpu", *given)
    (run,) = (tmp_path / "runs").iterdir()
    standing = read_status(run, [])

    assert ended.code == 1
    assert standing.state == "failed"
    assert standing.record.failed is not None
    assert "transition `failing` failed after epoch 1: KeyError: 'nothing'\n" in standing.record.failed
    assert standing.record.failed in ended.err


def test_an_error_before_a_run_has_begun_leaves_no_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, DIGEST)

    folder.write_failure("the disk is full")

    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_with_everything_that_is_known_of_it(call: Call, folder: RunFolder) -> None:
    save(folder, at(4))
    results = {"vae": {"seen": {"psnr": 21.5, "nan": float("nan")}}}
    save(folder, at(9), "stop", results=results, damaged={"shapes": {"3": "is cut", "5": "is cut"}})
    bundle = folder.path / "not_finite" / "000000007-vae"
    for path in (bundle, bundle.with_name(".000000009-vae.writing")):
        path.mkdir(parents=True)
        (path / "bundle.json").write_text("{}")

    reported = words(call("--status", folder.path))

    assert "state not running: it saved a checkpoint when it was stopped" in reported
    assert (
        "position\nsaved step `vae` (1 of 2), epoch 2 of 5, batch 3 of 6\n"
        "9 of 30 batches of the step, 9 of 50 batches of the run\n\n"
    ) in reported
    assert "last checkpoint\nname 000000009-vae-stop\nsaved 0 seconds ago, when the run was stopped\nsize " in reported
    assert "files verified: all SHA-256 digests match\nnumbers all finite\nkept 2 checkpoints" in reported
    assert f"to resume\nfrom checkpoint 000000009-vae-stop\nrepeating nothing\ncommand {COMMAND}\n" in reported
    assert "latest results\nvae/seen psnr 21.5, nan nan" in reported
    assert "notes\ndamaged data dataset `shapes`: 2 samples replaced by others\n" in reported
    assert f"not finite fluxflow-run --replay {bundle}" in reported
    assert reported.count("--replay") == 1


def test_the_status_of_a_killed_run_shows_how_far_it_was(call: Call, folder: RunFolder) -> None:
    save(folder, at(6))
    folder.record_position(at(11))

    reported = words(call("--status", folder.path))

    assert "state not running: it was killed, crashed or failed after its last checkpoint" in reported
    assert "saved step `vae` (1 of 2), epoch 1 of 5 done\n6 of 30 batches of the step" in reported
    assert "reached step `vae` (1 of 2), epoch 2 of 5, batch 5 of 6\n11 of 30 batches of the step" in reported
    assert "logged 0 seconds ago" in reported
    assert "from checkpoint 000000006-vae\nrepeating at least 5 batches\n" in reported


def test_a_run_that_ended_silently_is_not_reported_to_have_lost_nothing(call: Call, folder: RunFolder) -> None:
    save(folder, at(6))
    folder.record_position(at(6))

    reported = words(call("--status", folder.path))

    assert "state not running: nothing was logged after its last checkpoint" in reported
    assert "repeating no logged batches\n" in reported


def test_the_end_of_a_step_is_the_start_of_the_next_one(call: Call, folder: RunFolder) -> None:
    save(folder, Position(step=1, run_batch=30), "end")

    reported = words(call("--status", folder.path))

    assert "saved step `flow` (2 of 2), at its start\n30 of 50 batches of the run" in reported
    assert "ago, at the end of step `vae`\n" in reported


def test_a_finished_run_has_nothing_to_go_on_with(call: Call, folder: RunFolder) -> None:
    save(folder, Position(step=2, run_batch=50), "end")
    folder.record_position(Position(1, 1, 10, 20, 50))
    folder.write_identity(finished=True)

    reported = words(call("--status", folder.path))

    assert "state finished\n" in reported
    assert "saved after the last step\n50 of 50 batches of the run" in reported
    assert "to resume" not in reported
    assert json.loads((folder.path / "run.json").read_text())["command"] == COMMAND
    assert not (folder.path / "position.json").exists()


HOLDER = "import sys; from pathlib import Path; from fluxflow_registry.engine.run.folder import RunFolder\n" + (
    "lock = RunFolder(Path(sys.argv[1]), '').lock(); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def held(folder: RunFolder) -> Iterator[int]:
    """The number of a process that holds the run's folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process.pid
    process.communicate()


def test_a_running_run_is_seen_and_not_disturbed(call: Call, folder: RunFolder, held: int) -> None:
    save(folder, at(6))
    folder.record_position(at(8))
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}

    reported = words(call("--status", folder.path))

    assert f"state running, in use by process {held} on {os.uname().nodename}\n" in reported
    assert "now at step `vae` (1 of 2), epoch 2 of 5, batch 2 of 6\n" in reported
    assert "if it were killed now\nfrom checkpoint 000000006-vae\nrepeating at least 2 batches\n" in reported
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before
    with pytest.raises(FluxflowError, match=f"is in use by process {held}"):
        folder.lock()


@pytest.mark.parametrize("host", [platform.node(), "elsewhere"])
def test_on_a_disk_without_locks_the_lock_file_says_which_process_may_train_a_run(
    host: str, call: Call, folder: RunFolder, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    save(folder, at(6))
    lock = folder.path / ".lock"
    lock.write_text(lock.read_text().replace(platform.node(), host))
    owner = f"process {held} on {host}"

    reported = words(call("--status", folder.path))
    data = json.loads(call("--status", folder.path, "--json").out)
    row = words(call("--status", folder.path.parent))

    state = "running" if host == platform.node() else "unknown"
    assert (data["state"], data["lock_owner"]) == (state, owner)
    assert f"{folder.path.name} {state} " in row
    if state == "running":
        assert f"state running, in use by {owner}\n" in reported
        assert "to resume" not in reported
    else:
        assert f"state unknown, because files cannot be locked on this disk, last used by {owner}\n" in reported
        assert f"first make sure that {owner} has ended\ncommand {COMMAND}" in reported


def test_whoever_looks_does_not_keep_a_run_from_starting(folder: RunFolder) -> None:
    folder.lock().close()

    assert lock_owner(folder.path) == (None, True)
    lock = folder.lock()
    assert lock_owner(folder.path) == (f"process {os.getpid()} on {os.uname().nodename}", True)
    lock.close()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_gone_on_from(call: Call, folder: RunFolder) -> None:
    save(folder, at(4))
    spoil(save(folder, at(9)))
    disk.set_aside(save(folder, at(2)))

    reported = words(call("--status", folder.path))

    file = "checkpoints/000000009-vae/model.expander.safetensors"
    assert f"files DAMAGED\n{file} the file is damaged: its size or digest differs from the manifest\n" in reported
    assert "kept 2 checkpoints\nquarantined .000000002-vae.damaged\n" in reported
    assert "from checkpoint 000000004-vae\nquarantining 000000009-vae\nrepeating at least 5 batches\n" in reported
    assert "saved step `vae` (1 of 2), epoch 1 of 5, batch 4 of 6\n" in reported
    assert (folder.checkpoints / "000000009-vae").is_dir()


def test_where_no_checkpoint_is_whole_a_run_would_begin_again(call: Call, folder: RunFolder) -> None:
    spoil(save(folder, at(4)))
    (save(folder, at(9)) / checkpoints.MANIFEST).unlink()

    reported = words(call("--status", folder.path))

    assert "position\nsaved no intact checkpoint\n" in reported
    assert (
        "from the beginning: no checkpoint is intact\nquarantining 000000009-vae\nquarantining 000000004-vae\n"
        in reported
    )
    assert "repeating at least 9 batches\n" in reported


def test_numbers_that_are_not_finite_are_reported(call: Call, folder: RunFolder) -> None:
    state = {"model": {"expander": {"weight": torch.tensor([1.0, float("nan")])}}}
    store.save(folder.checkpoints, "000000004-vae", state, {"position": {}})

    assert "numbers not all finite\n" in words(call("--status", folder.path))


def test_a_newer_run_of_the_same_recipe_is_what_the_command_goes_on_with(call: Call, folder: RunFolder) -> None:
    run_folder(folder.path.parent, "small-20260801-130000")

    reported = words(call("--status", folder.path))

    assert "note the command resumes small-20260801-130000, a newer run of the same recipe" in reported


def test_a_renamed_folder_is_not_found_by_the_command(call: Call, folder: RunFolder) -> None:
    renamed = folder.path.rename(folder.path.with_name("good"))

    reported = words(call("--status", renamed))

    assert "note the command looks for a folder `small-...`, but this folder is `good`" in reported


def test_elsewhere_the_folder_to_run_the_command_from_is_shown(
    call: Call, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = words(call("--status", folder.path))
    monkeypatch.chdir("/")
    elsewhere = words(call("--status", folder.path))

    assert "run it from" not in here
    assert f"run it from {folder.path.parents[1]}" in elsewhere


def test_a_plugin_that_has_changed_is_reported(call: Call, folder: RunFolder, everything: Registry) -> None:
    rows = plugin_rows(everything)
    rows[0]["source"] = "another"
    (folder.path / "environment.json").write_text(json.dumps({"plugins": rows}))

    reported = words(call("--status", folder.path))

    assert f"plugin changed `{rows[0]['name']}` has changed since the run started" in reported
    assert reported.count("plugin changed") == 1


def test_the_status_of_a_run_that_recorded_less_is_still_shown(call: Call, folder: RunFolder) -> None:
    (folder.path / "run.json").write_text(json.dumps({"recipe": DIGEST, "finished": False}))
    save(folder, at(9))

    reported = words(call("--status", folder.path))

    assert "recipe see recipe.yaml (identity 0123456789ab)" in reported
    assert "saved step 1, epoch 2, batch 3\n9 batches of the step, 9 batches of the run" in reported
    assert "command" not in reported


def test_the_status_as_data(call: Call, folder: RunFolder) -> None:
    save(folder, at(4))
    spoil(save(folder, at(9), results={}))
    folder.record_position(at(11))

    data = json.loads(call("--status", folder.path, "--json").out)

    assert data["folder"] == str(folder.path)
    assert data["record"]["recipe"] == DIGEST
    assert data["record"]["steps"] == STEPS
    assert data["state"] == "interrupted"
    assert data["lock_owner"] is None
    assert data["saved"] == {"step": 0, "epoch": 0, "batch": 4, "step_batch": 4, "run_batch": 4}
    assert data["reached"]["position"]["run_batch"] == 11
    assert data["checkpoint"]["name"] == "000000009-vae"
    assert "model.expander.safetensors  the file is damaged" in data["checkpoint"]["problem"]
    assert data["resume"]["checkpoint"] == "000000004-vae"
    assert data["resume"]["repeats"] == 7
    assert data["resume"]["command"] == COMMAND


def test_the_folder_of_all_runs_is_a_line_a_run_the_newest_first(call: Call, folder: RunFolder) -> None:
    old, new = run_folder(folder.path.parent, "vae-20250101-000000"), folder
    save(old, at(9), "stop")
    os.utime(old.checkpoints / "000000009-vae-stop", (time.time() - 7200,) * 2)
    os.utime(old.path / "run.json", (time.time() - 7200,) * 2)
    save(new, at(4))
    new.record_position(at(5))
    damaged = run_folder(folder.path.parent, "gan-20240101-000000")
    (damaged.path / "run.json").write_text("{")
    os.utime(damaged.path / "run.json", (time.time() - 3 * 86400,) * 2)

    reported = call("--status", folder.path.parent)
    data = json.loads(call("--status", folder.path.parent, "--json").out)

    assert reported.out.splitlines() == [
        "small-20260801-120000  interrupted       0 seconds ago  5 of 50 batches  step vae",
        "vae-20250101-000000    stopped           2 hours ago    9 of 50 batches  step vae",
        "gan-20240101-000000    damaged run.json  3 days ago     0 batches",
    ]
    assert [run["state"] for run in data["runs"]] == ["interrupted", "stopped", None]


def test_a_run_that_is_removed_meanwhile_is_left_out(folder: RunFolder) -> None:
    gone = folder.path.with_name("small-gone")

    assert [each.folder for each in summaries([gone, folder.path])] == [folder.path]


def test_a_checkpoint_that_a_running_run_removes_meanwhile_is_not_called_damaged(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, at(4))
    verify = checkpoints.verify

    def meanwhile(path: Path) -> dict[str, Any]:
        if path.name == "000000004-vae":
            save(folder, at(9))
            checkpoints.remove(path)
        return verify(path)

    monkeypatch.setattr(checkpoints, "verify", meanwhile)

    found = read_status(folder.path, [])

    assert found.resume.checkpoint == "000000009-vae"
    assert found.resume.would_quarantine == ()
    assert found.quarantined == ()


def test_a_run_that_is_not_there_is_named_with_the_nearest(call: Call, folder: RunFolder, tmp_path: Path) -> None:
    slip = call("--status", "runs/small-20260801-12000")
    bare = call("--status", "small-20260801-120000")
    above = call("--status", tmp_path)

    assert slip.code == 2
    assert "runs/small-20260801-12000  the folder does not exist\n" in slip.err
    assert "nearest" in slip.err
    assert "  small-20260801-120000\n" in slip.err
    assert "nearest    small-20260801-120000\n" in bare.err
    assert "see also   runs\n" in bare.err
    assert f"available  small-20260801-120000\n    see also   {tmp_path / 'runs'}\n" in above.err
    assert above.err.startswith(
        f"{tmp_path}  there is no run in this folder: it has no run.json, and neither do the folders in it\n"
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("runs/small-20260801-120000/checkpoints", "this folder is inside a run: use the folder of the run itself"),
        ("runs/small-20260801-120000/run.json", "this folder is inside a run: use the folder of the run itself"),
        ("file", "this is not a folder"),
        ("a\0b", "the folder does not exist"),
        ("x" * 300, "cannot read the folder: File name too long"),
        ("a\x1b[2Jb", "a\\x1b[2Jb  the folder does not exist"),
    ],
)
def test_what_is_no_run_is_refused(call: Call, folder: RunFolder, path: str, message: str) -> None:
    Path("file").touch()

    refused = call("--status", path)

    assert refused.code == 2
    assert message in refused.err
    assert refused.out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "`run.json` is not valid JSON: JSONDecodeError"),
        ("[]", "the record of the run does not name its recipe"),
        ('{"recipe": 3}', "the record of the run does not name its recipe"),
        ("[" * 100_000, "`run.json` is not valid JSON: RecursionError"),
        ("1" * 5000, "`run.json` is not valid JSON: ValueError"),
    ],
)
def test_a_damaged_record_is_reported_with_what_there_is(
    call: Call, folder: RunFolder, content: str, message: str
) -> None:
    save(folder, at(9))
    (folder.path / "run.json").write_text(content)

    refused = call("--status", folder.path)

    assert refused.code == 2
    assert refused.err.startswith(f"{folder.path / 'run.json'}  {message}")
    assert "status  1 checkpoint, the newest 000000009-vae\n" in refused.err


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(call: Call, folder: RunFolder) -> None:
    checkpoint = save(folder, at(9))
    (checkpoint / checkpoints.STATE).unlink()
    for path in (checkpoint / checkpoints.STATE, folder.path / "position.json", folder.path / ".lock"):
        os.mkfifo(path)

    reported = words(call("--status", folder.path))

    assert "state.json is not a file\n" in reported


def test_a_real_run_that_is_killed_stopped_and_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    settings = ["--set", "steps.vae_gan.epochs=4", "--set", "defaults.checkpoint_every=7"]

    def ended(number: signal.Signals) -> Path:
        started = WARM.pause(tmp_path, 17, "small.yaml", *settings, "--fresh")
        (path,) = tmp_path.glob("runs/small-*")
        assert lock_owner(path) == (f"process {started.pid} on {os.uname().nodename}", True)
        started.signal(number)
        (tmp_path / "continue").touch()
        started.wait()
        return path

    killed = read_status(ended(signal.SIGKILL), [])
    shutil.rmtree(tmp_path / "runs")
    stopped = read_status(ended(signal.SIGTERM), [])

    assert killed.state == "interrupted"
    assert killed.resume.repeats == 2
    assert stopped.state == "stopped"
    assert stopped.resume.repeats == 0
    assert stopped.saved is not None
    assert stopped.record.command == " ".join(
        ["python", "-m", "fluxflow_registry", "small.yaml", *settings, "--plugin", "pause.py"]
    )
    assert stopped.record.directory == str(tmp_path)
    assert [step.name for step in stopped.record.steps] == ["vae_gan"]
    assert stopped.resume.checkpoint == stopped.checkpoint.name if stopped.checkpoint else False


def test_a_position_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder.path / ".position.json.writing").mkdir()

    folder.record_position(at(3))

    assert not (folder.path / "position.json").exists()


def test_a_run_that_starts_again_forgets_how_far_the_one_before_was(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.record_position(at(3))

    folder.write_identity(finished=False)

    assert not (folder.path / "position.json").exists()


def test_the_status_of_a_run_is_shown_without_torch(folder: RunFolder) -> None:
    save(folder, at(9))
    code = (
        "import sys\n"
        "from fluxflow_registry.cli.main import run\n"
        f"try: run(['--status', {str(folder.path)!r}])\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'lpips', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout


def test_json_has_the_epochs_and_metrics_of_every_step_as_in_the_checkpoint(
    tmp_path: Path, everything: Registry, call: Call
) -> None:
    folder = run_folder(tmp_path / "runs")
    reported = {
        "current_step": 1,
        "current_step_name": "flow",
        "step_start_epoch": 5,
        "current_step_epoch": 1,
        "step_epochs": {"vae": 5, "flow": 1},
        "step_metrics": {"vae": {"vae_loss": [0.5, None]}, "flow": {"flow_loss": [1.0]}},
    }
    save(folder, at(8), pipeline_metadata=reported)

    found = json.loads(call("--status", folder.path, "--json").out)

    assert found["pipeline_metadata"] == reported


@pytest.mark.parametrize("spoilt", [None, [], {"step_metrics": [], "step_epochs": 3, "current_step": "x"}])
def test_json_passes_over_metadata_that_no_run_has_written(
    tmp_path: Path, everything: Registry, call: Call, spoilt: Any
) -> None:
    folder = run_folder(tmp_path / "runs")
    save(folder, at(8), pipeline_metadata=spoilt)

    found = json.loads(call("--status", folder.path, "--json").out)["pipeline_metadata"]

    assert found in ({}, {"current_step_name": None, "step_epochs": {}, "step_metrics": {}})
