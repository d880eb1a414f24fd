"""Worker processes under every way to start them: what they read, how they end, and what is reported if they cannot."""

from __future__ import annotations

import errno
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from fluxflow_registry import DataError
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data import workers as working
from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.data.processes import start_method
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..cli.test_kills import write_data
from ..forked import WARM, group_is_gone
from ..small import VAE_GAN

PLACE = (0, "step", "data", 1)
METHODS = [method for method in ("fork", "forkserver", "spawn") if method in multiprocessing.get_all_start_methods()]

#: A dataset in a plugin's file, which uses a module beside the file. A signal reaches a worker that has just read it.
NUMBERS = """
import os
import signal

from attrs import frozen
from fluxflow_registry import Field, hookimpl
from numbers_beside import tensor_of


class Source:
    def __len__(self):
        return 8

    def __setstate__(self, state):
        os.kill(os.getpid(), signal.SIGTERM)

    def __getstate__(self):
        return {"state": 1}

    def batch(self, indices, seed):
        return {"number": tensor_of(indices)}


@frozen
class Numbers:
    def fields(self):
        return {"number": Field(())}

    def __call__(self):
        return Source()


@hookimpl
def fluxflow_register_datasets(register):
    register("numbers", Numbers)
"""

BESIDE = """
import torch


def tensor_of(indices):
    return torch.tensor(list(indices))
"""


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    """The start method that the process has chosen."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def alone() -> Iterator[None]:
    """No plugin file of another test is known."""
    before, modules = sys.meta_path[:], set(sys.modules)
    yield
    sys.meta_path[:] = before
    for name in set(sys.modules) - modules:
        if name == "numbers_beside" or name.startswith("fluxflow_file_"):
            del sys.modules[name]


@pytest.mark.parametrize("method", METHODS, indirect=True)
@pytest.mark.usefixtures("alone")
def test_a_dataset_of_a_plugin_file_is_read_by_workers_however_they_are_started(method: str, tmp_path: Path) -> None:
    (tmp_path / "numbers_plugin.py").write_text(NUMBERS)
    (tmp_path / "numbers_beside.py").write_text(BESIDE)
    source = load([], [tmp_path / "numbers_plugin.py"]).components["dataset"]["numbers"].factory()()

    here = [batch.fields["number"].tolist() for batch in epoch_batches(source, 2, 4, 0, 0, PLACE)]
    there = [batch.fields["number"].tolist() for batch in epoch_batches(source, 2, 4, 0, 1, PLACE)]
    again = [batch.fields["number"].tolist() for batch in epoch_batches(source, 2, 4, 2, 1, PLACE)]

    assert start_method() == method
    assert there == here
    assert again == here[2:]
    assert multiprocessing.active_children() == []


SOURCES = {
    "shapes": "{type: shapes, image_size: 16, length: 24}",
    "folder": "{type: folder, path: pictures, image_size: 16, flip: 0.5}",
    "buckets and views": "{type: folder, path: pictures, image_size: 32, bucket_multiple: 8, reduced_min_sizes: [16]}",
    "webdataset": "{type: webdataset, shards: ['shards/*.tar'], image_size: 16, flip: 0.5}",
}


@pytest.mark.parametrize("options", SOURCES.values(), ids=SOURCES)
def test_each_of_our_sources_reads_the_same_after_it_was_sent_to_another_process(
    options: str, everything: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    plan = check(tmp_path / "small.yaml", everything, [f"datasets.shapes={options}"])
    (source,) = open_sources(plan).values()
    source.batch([0, 1], 0)  # with what it has opened

    sent = ForkingPickler.loads(ForkingPickler.dumps(source))

    here, there = source.batch([2, 3], 5), sent.batch([2, 3], 5)
    assert here.keys() == there.keys()
    for name, field in here.items():
        assert torch.equal(field, there[name]) if isinstance(field, torch.Tensor) else field == there[name]


def test_workers_are_forked_on_linux_unless_the_process_has_chosen_another_method() -> None:
    multiprocessing.set_start_method(None, force=True)

    assert sys.platform != "linux" or start_method() == "fork"


#: A plugin that chooses how processes are started.
CHOOSING = """
import multiprocessing

from fluxflow_registry import hookimpl

multiprocessing.set_start_method("{method}", force=True)


@hookimpl
def fluxflow_register_losses(register):
    pass
"""


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_with_a_process_that_is_killed_however_they_were_started(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "small.yaml").write_text(VAE_GAN)
    (folder / "choosing.py").write_text(CHOOSING.format(method=method))

    started = WARM.pause(folder, 2, "small.yaml", "--set", "defaults.workers=2", "--plugin", "choosing.py")
    started.signal(signal.SIGKILL)

    assert started.wait() == -signal.SIGKILL
    assert group_is_gone(started.pid, 30), started.said


class Unsendable:
    """A source with something that only this process has."""

    def __init__(self) -> None:
        self.keep = lambda: None

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Any, seed: int) -> dict[str, Any]:
        return {"number": torch.tensor(list(indices))}


@pytest.mark.parametrize("method", ["forkserver", "spawn"], indirect=True)
def test_a_source_that_cannot_be_sent_to_workers_is_an_error_with_its_cause(
    method: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(DataError) as caught:
        list(epoch_batches(Unsendable(), 2, 4, 0, 2, PLACE))

    (problem,) = caught.value.problems
    assert problem.message == (
        f"the source `Unsendable` cannot be sent to worker processes that are started by `{method}`"
    )
    assert "lambda" in dict(problem.notes)["cause"]
    assert dict(problem.notes)["hint"] == (
        "let it open files and create locks when it first reads, or set `workers: 0` to read without worker processes"
    )
    assert not recwarn.list
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("method", ["forkserver"], indirect=True)
def test_a_source_that_a_worker_cannot_load_is_an_error_with_its_cause(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = ModuleType("only_here")
    source = type("Source", (Unsendable,), {"__module__": "only_here", "__init__": lambda self: None})
    elsewhere.Source = source  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", elsewhere)

    with pytest.raises(DataError) as caught:
        list(epoch_batches(source(), 2, 4, 0, 1, PLACE))

    (problem,) = caught.value.problems
    assert problem.message == "the source `Source` cannot be loaded in a worker process", str(problem)
    assert dict(problem.notes)["cause"] == "ModuleNotFoundError: No module named 'only_here'"


class Leaving(Unsendable):
    """A source that ends the process that reads it."""

    def batch(self, indices: Any, seed: int) -> dict[str, Any]:
        sys.exit(3)


def test_a_source_that_ends_a_worker_is_an_error_with_its_line() -> None:
    with pytest.raises(DataError) as caught:
        list(epoch_batches(Leaving(), 2, 4, 0, 1, PLACE))

    (problem,) = caught.value.problems
    assert problem.message == "the source `Leaving` ended the process: sys.exit(3)"
    assert "test_workers.py:" in str(problem.where)


@pytest.mark.parametrize(
    ("code", "cause", "hint"),
    [
        (-signal.SIGKILL, "signal 9", "the system kills processes when memory is short: free memory"),
        (-signal.SIGBUS, "signal 7", "enlarge shared memory (/dev/shm; in a container `--shm-size`), or lower"),
        (-signal.SIGSEGV, "signal 11", "set `workers: 0` to see the error that ends them"),
        (1, "exit code 1", "set `workers: 0` to see the error that ends them"),
    ],
)
def test_what_workers_died_of_decides_what_is_suggested(code: int, cause: str, hint: str) -> None:
    error = working._died([SimpleNamespace(exitcode=code), SimpleNamespace(exitcode=None)])

    (problem,) = error.problems
    assert problem.message == f"the worker processes that read samples died 4 times in a row ({cause})"
    assert dict(problem.notes)["hint"].startswith(hint)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "raise the open file limit (`ulimit -n`)"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "free memory, raise the process limit"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "free memory, raise the process limit"),
        (OSError(errno.ENOSYS, "Function not implemented"), "mount /dev/shm writable, or set `workers: 0`"),
        (OSError(errno.EROFS, "Read-only file system"), "mount /dev/shm writable, or set `workers: 0`"),
        (AssertionError("daemonic processes are not allowed to have children"), "lower `workers`, or set"),
        (RuntimeError("can't start new thread"), "lower `workers`, or set"),
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "errno", "")) if isinstance(value, Exception) else "",
)
def test_workers_that_cannot_be_started_are_an_error_and_none_is_left(
    number: int, error: Exception, hint: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fails_at(monkeypatch, number, error)

    with pytest.raises(DataError) as caught:
        list(epoch_batches(Unsendable(), 2, 4, 0, 2, PLACE))

    (problem,) = caught.value.problems
    assert problem.message == "the worker processes that read samples cannot be started"
    assert dict(problem.notes)["cause"] == f"{type(error).__name__}: {error}"
    assert dict(problem.notes)["hint"].startswith(hint)
    del caught, problem
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def fails_at(monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> None:
    """Let the start of a worker fail, the first or the second one."""
    start: Callable[[Any], None] = multiprocessing.process.BaseProcess.start
    calls: list[int] = []

    def failing(self: Any) -> None:
        calls.append(1)
        if len(calls) == number:
            raise error
        start(self)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", failing)


def test_workers_are_started_from_a_thread_too() -> None:
    from threading import Thread

    read: list[list[int]] = []

    def read_all() -> None:
        read.extend(batch.fields["number"].tolist() for batch in epoch_batches(Unsendable(), 2, 4, 0, 1, PLACE))

    thread = Thread(target=read_all)
    thread.start()
    thread.join()

    assert sorted(number for batch in read for number in batch) == list(range(8))


#: A plugin that lowers a limit once everything is imported.
LIMITED = """
import resource

from attrs import frozen
from fluxflow_registry import hookimpl
from typing import ClassVar


@frozen
class Limit:
    default: ClassVar[bool] = True

    @hookimpl
    def run_started(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


@hookimpl
def fluxflow_register_observers(register):
    register("limit", Limit)
"""


def test_a_run_that_may_not_open_enough_files_for_its_workers_ends_with_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "small.yaml").write_text(VAE_GAN)
    (folder / "limit.py").write_text(LIMITED)

    started = WARM.start(folder, "small.yaml", "--set", "defaults.workers=4", "--plugin", "limit.py")
    code = started.wait()

    assert code in (1, 2), started.said
    assert "the worker processes that read samples" in started.said
    assert "hint   raise the open file limit (`ulimit -n`), or lower `workers`" in started.said
    assert "Traceback" not in started.said
    assert "Error in" not in started.said
    assert "Exception ignored" not in started.said
    assert group_is_gone(started.pid, 10)
