"""Disks that cannot do everything, and folders in which anything may be: links, pipes, devices."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.errors import RunError
from fluxflow_registry.state import checkpoints, disk, store
from fluxflow_registry.state.bookkeeping import read_json

#: What a file system reports for an operation that it does not have.
UNSUPPORTED = [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP]

#: For each guarantee: the errors with which a disk does not give it, and a part of the note.
LACKING = {
    "file": (UNSUPPORTED, "files cannot be synced"),
    "folder": ([*UNSUPPORTED, errno.EISDIR, errno.EACCES, errno.EBADF], "folders cannot be synced"),
    "lock": ([*UNSUPPORTED, errno.ENOLCK], "files cannot be locked"),
}
CASES = [(what, number) for what, (numbers, _) in LACKING.items() for number in numbers]


def fail(what: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk report this error for syncing files, for syncing folders, or for locks."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) == (what == "folder"):
            raise OSError(number, os.strerror(number))
        real(handle)

    def flock(handle: Any, flags: int) -> None:
        raise OSError(number, os.strerror(number))

    if what == "lock":
        monkeypatch.setattr(fcntl, "flock", flock)
    else:
        monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folders.new(tmp_path, "small", "digest")


def save(run: RunFolder, step: str = "vae") -> Path:
    """A checkpoint with a model, the second of which links to the first."""
    state = {"model": {"net": {"weight": torch.ones(3)}}}
    return store.save(run.checkpoints, checkpoints.name_of(4, step, "due"), state, {})


@pytest.mark.parametrize(("what", "number"), CASES)
def test_a_disk_without_a_guarantee_is_one_note_and_everything_is_written(
    what: str, number: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(what, number, monkeypatch)
    notes: list[str] = []

    lock = run.lock(notes.append)
    run.write_identity(finished=False)
    saved = save(run)
    store.write_model(run.path / "final" / "net", {}, {"weight": torch.ones(3)})
    disk.append_file(run.path / "graph" / "log.jsonl", b"{}\n")
    disk.sync_file(run.path / "graph" / "log.jsonl")
    monkeypatch.setattr(os, "link", lambda *_: fail_with(errno.EPERM))
    disk.link(run.path / "run.json", run.path / "copy.json")
    lock.close()

    assert [LACKING[what][1] in note for note in notes] == [True]
    assert notes[0].startswith(f"{run.path}: ")
    assert checkpoints.verify(saved)
    assert (run.path / "copy.json").read_bytes() == (run.path / "run.json").read_bytes()
    assert folders.lock_owner(run.path) == (None, True)


def fail_with(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("what", LACKING)
def test_a_disk_that_fails_is_still_an_error(what: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(what, errno.EIO, monkeypatch)

    with pytest.raises(RunError, match="Input/output error"):
        run.lock()


def test_a_disk_with_all_guarantees_needs_no_note(run: RunFolder) -> None:
    notes: list[str] = []

    run.lock(notes.append).close()

    assert notes == []


SLEEP = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which has started."""
    process = subprocess.Popen([*SLEEP, "fluxflow-run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


def started(number: int) -> str:
    """When a process started, as a lock file records it."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]


def on(host: str, number: int, start: str = "") -> str:
    return f"process {number} on {host}" + (f"\nstarted {start}" if start else "")


@pytest.mark.parametrize("number", LACKING["lock"][0])
@pytest.mark.parametrize("recorded", [True, False])
def test_without_locks_a_run_that_a_living_process_trains_is_in_use(
    recorded: bool, number: int, run: RunFolder, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail("lock", number, monkeypatch)
    text = on(platform.node(), other.pid, started(other.pid) if recorded else "")
    (run.path / ".lock").write_text(text)

    with pytest.raises(RunError, match=f"the run is in use by process {other.pid} on {platform.node()}\n") as caught:
        run.lock()

    assert str(run.path / ".lock") in dict(caught.value.problems[0].notes)["hint"]
    assert folders.lock_owner(run.path) == (on(platform.node(), other.pid), True)
    assert (run.path / ".lock").read_text() == text


def killed(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    while _state(process.pid) != "Z":  # its parent has not waited for it
        time.sleep(0.001)
    return on(platform.node(), process.pid)


def _state(number: int) -> str:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]


def ended(process: subprocess.Popen[bytes]) -> str:
    killed(process)
    process.wait()
    return on(platform.node(), process.pid, "1")


#: What the lock file of a run says that no process trains, given another process that runs.
FREE: dict[str, Callable[[subprocess.Popen[bytes]], str]] = {
    "nothing": lambda _: "",
    "killed": killed,
    "ended": ended,
    "number used again": lambda process: on(platform.node(), process.pid, "1"),
    "number used again, no start recorded": lambda _: on(platform.node(), os.getppid()),
    "this process": lambda _: on(platform.node(), os.getpid(), "1"),
    "no process has this number": lambda _: on(platform.node(), 10**30),
}


@pytest.mark.parametrize("what", FREE)
def test_without_locks_a_run_that_no_process_trains_can_be_resumed_at_once(
    what: str, run: RunFolder, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail("lock", errno.ENOSYS, monkeypatch)
    (run.path / ".lock").write_text(FREE[what](other))
    if what.endswith("no start recorded"):
        real = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: b"sh" if path.name == "cmdline" else real(path))
    notes: list[str] = []

    assert folders.lock_owner(run.path) == (None, True)
    lock = run.lock(notes.append)

    assert len(notes) == 1, notes
    assert (run.path / ".lock").read_text() == on(platform.node(), os.getpid(), started(os.getpid()))
    run.unlock(lock)
    assert (run.path / ".lock").read_text() == ""


@pytest.mark.parametrize(("text", "name"), [(on("elsewhere", 1), on("elsewhere", 1)), ("junk", "another process")])
def test_without_locks_a_process_that_may_train_a_run_is_named(
    text: str, name: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail("lock", errno.ENOSYS, monkeypatch)
    (run.path / ".lock").write_text(text)
    notes: list[str] = []

    assert folders.lock_owner(run.path) == (name, False)
    run.lock(notes.append).close()

    assert notes[0] == f"{run.path}: {name} has used this run: make sure that it has ended"


def test_with_locks_the_process_that_a_lock_file_names_has_no_say(
    run: RunFolder, other: subprocess.Popen[bytes]
) -> None:
    (run.path / ".lock").write_text(on(platform.node(), other.pid, started(other.pid)))

    assert folders.lock_owner(run.path) == (None, True)
    run.lock().close()


#: Everything that writes a file in the folder of a run, with the names that it writes.
WRITERS: dict[str, tuple[Callable[[RunFolder], object], list[str]]] = {
    "identity": (lambda run: run.write_identity(finished=False), [".run.json.writing", "run.json"]),
    "failure": (lambda run: run.write_failure("it failed"), [".run.json.writing"]),
    "position": (lambda run: run.record_position(Position()), [".position.json.writing", "position.json"]),
    "recipe": (lambda run: disk.replace(run.path / "recipe.yaml", b"a"), [".recipe.yaml.writing", "recipe.yaml"]),
    "observer": (
        lambda run: disk.write_file(run.path / "results.json", b"{}"),
        [".results.json.writing", "results.json"],
    ),
    "model": (
        lambda run: store.write_model(run.path, {}, {"w": torch.ones(2)}),
        [".writing", "model.safetensors", ".config.json.writing", "config.json"],
    ),
    "lock": (lambda run: run.lock().close(), [".lock"]),
    "log": (lambda run: disk.append_file(run.path / "log.jsonl", b"{}\n"), ["log.jsonl"]),
    "checkpoint": (save, ["checkpoints/.000000004-vae.writing"]),
}
PLACES = [(writer, name) for writer, (_, names) in WRITERS.items() for name in names]


def stand_in(path: Path, kind: str, victim: Path) -> None:
    """Put something at a path that is not a file of the run."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        targets = {"link": victim, "link to nothing": victim.with_name("nothing"), "device": Path("/dev/zero")}
        path.symlink_to(targets[kind])


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "device"])
@pytest.mark.parametrize(("writer", "name"), PLACES)
def test_nothing_is_written_through_a_link_or_into_a_pipe(
    writer: str, name: str, kind: str, run: RunFolder, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run.write_identity(finished=False)
    stand_in(run.path / name, kind, victim)

    if writer in ("lock", "log"):
        with pytest.raises((RunError, OSError), match="it is not a regular file"):
            WRITERS[writer][0](run)
    else:
        WRITERS[writer][0](run)
        assert not (run.path / name).is_symlink()

    assert victim.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_a_lock_that_is_linked_elsewhere_is_not_written_to(run: RunFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.link(victim, run.path / ".lock")

    run.lock().close()

    assert victim.read_text() == "precious"


#: Everything that reads a file in the folder of a run, with the file that it reads.
READERS: dict[str, tuple[Callable[[RunFolder], object], str]] = {
    "identity": (lambda run: folders.read_identity(run.path), "run.json"),
    "json": (lambda run: read_json(run.path / "environment.json"), "environment.json"),
    "manifest": (lambda run: checkpoints.verify(only(run)), "manifest.json"),
    "tensors": (lambda run: checkpoints.verify(only(run)), "model.net.safetensors"),
    "state": (lambda run: checkpoints.verify(only(run)), "state.json"),
    "metadata": (lambda run: checkpoints.read_meta(only(run)), "state.json"),
    "config": (lambda run: store.read_model(run.path / "final"), "config.json"),
    "weights": (lambda run: store.read_model(run.path / "final"), "model.safetensors"),
}


def only(run: RunFolder) -> Path:
    return checkpoints.listing(run.checkpoints)[0].folder


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_nothing_that_never_ends_is_read(reader: str, kind: str, run: RunFolder, tmp_path: Path) -> None:
    read, name = READERS[reader]
    run.write_identity(finished=False)
    save(run)
    store.write_model(run.path / "final", {}, {"w": torch.ones(2)})
    place = {"run.json": run.path, "environment.json": run.path}.get(name, only(run))
    place = run.path / "final" if reader in ("config", "weights") else place
    stand_in(place / name, kind, tmp_path / "victim")

    if reader == "identity":
        assert read(run) == {}
    else:
        with pytest.raises(RunError, match=r"not a regular file|its size or digest differs from the manifest"):
            read(run)


def test_all_or_nothing_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "log.jsonl", os.write
    disk.append_file(path, b"first\n")

    def half(handle: int, content: Any) -> int:
        if len(content) < 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, bytes(content)[:3])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        disk.append_file(path, b"second\n")

    assert path.read_bytes() == b"first\n"
