"""What a machine does not have, or not enough of: one sentence with its cause and the fix, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.cli import generate
from fluxflow_registry.errors import FluxflowError

from ..forked import WARM, group_is_gone
from ..small import VAE_GAN

TOO_LARGE = 2**63


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(VAE_GAN)
    return path


@pytest.mark.parametrize("flags", [["--check"], []], ids=["check", "training"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (f"defaults.batch_size={TOO_LARGE}", "a batch of 9,223,372,036,854,775,808 samples in step"),
        (f"defaults.batch_size={TOO_LARGE - 1}", "a batch of 9,223,372,036,854,775,807 samples in step"),
        (f"defaults.batch_size={2**40}", "a batch of 1,099,511,627,776 samples in step `vae_gan` takes"),
        (f"datasets.shapes.image_size={2**20 * 16}", "a batch of 4 samples in step `vae_gan` takes"),
        (f"datasets.shapes.length={2**40}", "dataset `shapes` has 1,099,511,627,776 samples: their order takes"),
        (f"datasets.shapes.length={TOO_LARGE - 1}", "dataset `shapes` has 9,223,372,036,854,775,807 samples: their"),
        (f"datasets.shapes.length={TOO_LARGE}", "dataset `shapes` has too many samples: at most 9,223,372,036,854"),
        ("models.compressor.width=100000", "the weights of the models take"),
        ("defaults.workers=1000000", "`workers` of step `vae_gan` must be"),
    ],
)
def test_numbers_that_no_memory_holds_are_reported_before_training(
    call: Callable[..., Any], recipe: Path, setting: str, message: str, flags: list[str]
) -> None:
    answer = call(recipe, *flags, "--set", setting)

    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert "alloc_cpu" not in answer.err
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize("flags", [["--check"], []], ids=["check", "training"])
def test_a_machine_without_a_folder_for_temporary_files_is_reported_and_not_the_first_model(
    call: Callable[..., Any], recipe: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/1/nowhere"])

    answer = call(recipe, *flags)

    assert answer.code == 2
    assert answer.err == (
        "cannot write a temporary file, which torch needs\n"
        "    cause  No usable temporary directory found in ['/proc/1/nowhere']\n"
        "    hint   set TMPDIR to a writable folder with free space\n"
    )
    assert not (recipe.parent / "runs").exists()


#: A plugin that allows no file to grow.
NO_FILES = """
import resource

from fluxflow_registry import hookimpl

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@hookimpl
def fluxflow_register_losses(register):
    pass
"""


@pytest.mark.parametrize("flags", [["--check"], []], ids=["check", "training"])
def test_a_limit_of_the_size_of_files_is_reported_as_that(
    command: Callable[..., subprocess.CompletedProcess[str]], recipe: Path, flags: list[str]
) -> None:
    (recipe.parent / "no_files.py").write_text(NO_FILES)

    done = command("small.yaml", "--plugin", "no_files.py", *flags)

    assert done.returncode == 2
    assert done.stderr == (
        "cannot write a temporary file, which torch needs\n"
        "    cause  the file size limit is 0 (`ulimit -f`)\n"
        "    hint   raise the limit\n"
    )


#: A plugin that gives the process another file system for shared memory.
SHARED_MEMORY = """
import ctypes
import subprocess

from fluxflow_registry import hookimpl

assert ctypes.CDLL(None).unshare(0x20000) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "{options}", "tmpfs", "/dev/shm"], check=True)


@hookimpl
def fluxflow_register_losses(register):
    pass
"""


def may_mount() -> bool:
    """Whether this system lets tests mount a file system of their own."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
@pytest.mark.parametrize(
    ("options", "cause", "hint"),
    [
        ("ro", "Read-only file system", "mount /dev/shm writable, or set `workers: 0`"),
        ("size=64k", "No space left on device", "enlarge shared memory (/dev/shm; in a container `--shm-size`)"),
        ("size=4k", "No space left on device", "enlarge shared memory (/dev/shm; in a container `--shm-size`)"),
    ],
)
def test_shared_memory_that_workers_cannot_use_is_reported_as_that(
    recipe: Path, options: str, cause: str, hint: str
) -> None:
    folder = recipe.parent
    (folder / "shared_memory.py").write_text(SHARED_MEMORY.format(options=options))
    settings = ["defaults.workers=2", "datasets.shapes.image_size=64"]

    started = WARM.start(
        folder, "small.yaml", "--plugin", "shared_memory.py", *(word for each in settings for word in ("--set", each))
    )
    code = started.wait()

    assert code == 1, started.said  # training had begun
    assert cause in started.said.split("\n    cause  ")[1].splitlines()[0]
    assert f"\n    hint   {hint}" in started.said
    assert "Traceback" not in started.said
    assert "Exception ignored" not in started.said
    assert group_is_gone(started.pid, 10)


def test_workers_leave_no_temporary_files(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = recipe.parent / "tmp"
    temporary.mkdir()

    started = WARM.start(recipe.parent, "small.yaml", "--set", "defaults.workers=2", TMPDIR=str(temporary))

    assert started.wait() == 0, started.said
    assert [path.name for path in temporary.iterdir() if path.name.startswith(("pymp-", "fluxflow-"))] == []


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A pipe to which someone writes without end."""
    path = tmp_path / "endless"
    os.mkfifo(path)
    stop = threading.Event()

    def write() -> None:
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            while not stop.is_set():
                pipe.write(b"x" * 65536)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield path
    stop.set()
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # if nobody has opened it
    thread.join()


def prompts_of(*words: str) -> list[str]:
    arguments = generate.parser().read(generate.hyphened(["RUN", *words]), Namespace(command=""))
    return [prompt.text for prompt in generate.read_prompts(arguments)]


@pytest.mark.parametrize("flag", ["--prompts", "--text-prompts-path"])
@pytest.mark.parametrize("source", ["/dev/zero", "/dev/urandom", "endless"])
def test_a_file_of_prompts_that_never_ends_is_an_error(flag: str, source: str, endless: Path) -> None:
    if source != "endless":
        endless.open("rb").close()

    with pytest.raises(FluxflowError) as caught:
        prompts_of(flag, str(endless) if source == "endless" else source)

    (problem,) = caught.value.problems
    assert problem.message == "the prompt file is too long: at most 67,108,864 bytes are read"


@pytest.mark.parametrize("flag", ["--prompts", "--text-prompts-path"])
def test_a_pipe_to_which_nobody_writes_is_an_empty_file_of_prompts(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "WAIT", 0.1)
    os.mkfifo(tmp_path / "silent")

    with pytest.raises(FluxflowError, match="the prompt file is empty"):
        prompts_of(flag, str(tmp_path / "silent"))


def test_prompts_are_read_from_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a red circle\n\na blue square\n")
    os.close(writing)

    try:
        assert prompts_of("--prompts", f"/dev/fd/{reading}") == ["a red circle", "a blue square"]
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent", None, "cannot read the prompts: No such file or directory"),
        ("bytes", b"\xff\xfe\xfa", "the prompt file is UTF-16: save it as UTF-8"),
        ("folder", "folder", "cannot read the prompts: Is a directory"),
        ("a\0b", None, "cannot read the prompts: no path contains a NUL character"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, content: bytes | str | None, message: str
) -> None:
    if content == "folder":
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)

    with pytest.raises(FluxflowError) as caught:
        prompts_of("--prompts", str(tmp_path / name))

    assert caught.value.problems[0].message.startswith(message)


@pytest.mark.parametrize("flag", ["--prompt", "--negative-prompt"])
def test_a_prompt_with_bytes_that_are_not_text_is_an_error(flag: str) -> None:
    with pytest.raises(FluxflowError) as caught:
        prompts_of("--prompt", "a red circle", flag, "a \udcff circle")

    (problem,) = caught.value.problems
    assert str(problem) == f"{flag}  the prompt `a \\xff circle` contains bytes that are not UTF-8"


def test_a_prompt_of_two_hyphens_is_a_prompt_or_missing() -> None:
    assert prompts_of("--prompt=--") == ["--"]
    for words in (["--prompt", "--"], ["--prompt", "--", "x"]):
        with pytest.raises(FluxflowError, match="`--prompt` needs a value"):
            prompts_of(*words)


@pytest.mark.parametrize("flag", ["--seed", "--count", "--guidance"])
def test_two_hyphens_are_not_a_number(flag: str) -> None:
    with pytest.raises(FluxflowError, match=f"`{flag}` must be"):
        prompts_of(f"{flag}=--")


#: A plugin after which torch cannot be imported.
BROKEN = """
import sys

from fluxflow_registry import hookimpl

for name in [*sys.modules]:
    if name.partition(".")[0] == "torch" or name == "fluxflow_registry.cli.check":
        del sys.modules[name]


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("libtorch_cpu.so: failed to map segment from shared object")


sys.meta_path.insert(0, Finder())


@hookimpl
def fluxflow_register_losses(register):
    pass
"""


def test_a_library_that_cannot_be_imported_is_reported_as_that(
    command: Callable[..., subprocess.CompletedProcess[str]], recipe: Path
) -> None:
    (recipe.parent / "broken.py").write_text(BROKEN)

    done = command("small.yaml", "--plugin", "broken.py", "--check")

    assert done.returncode == 2
    assert done.stderr.startswith(
        "a library that this command needs cannot be imported: "
        "ImportError: libtorch_cpu.so: failed to map segment from shared object\n"
    )
    assert "Traceback" not in done.stderr
