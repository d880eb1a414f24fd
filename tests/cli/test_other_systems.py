"""Systems without what POSIX has, such as Windows: recipes can be inspected, and training says what does not work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..small import VAE_GAN
from .test_kills import write_data

ROOT = Path(__file__).parents[2]

#: Takes away what Windows does not have, then runs each command of the input and prints how it ended.
PROGRAM = """
import contextlib, importlib, io, json, os, shutil, signal, sys, traceback

# Libraries know their system; they are not in question.
import lpips, matplotlib.figure, numpy, PIL.Image, rich.console, safetensors.torch, tempfile, torch._dynamo, subprocess

for module in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "_posixshmem"):
    sys.modules[module] = None
for name in (
    "pthread_sigmask", "pthread_kill", "sigwait", "setitimer", "siginterrupt", "SIGHUP", "SIGUSR1", "SIGUSR2",
    "SIGXCPU", "SIGKILL", "SIGCHLD", "SIGPIPE", "SIGALRM", "SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK",
):
    delattr(signal, name)
for name in (
    "fork", "forkpty", "uname", "getuid", "geteuid", "getgid", "getpgid", "setsid", "killpg", "pread", "pwrite",
    "mkfifo", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "sysconf", "nice", "getloadavg",
    "sched_getaffinity", "fchmod", "posix_fadvise", "statvfs", "set_blocking",
):
    if hasattr(os, name):
        delattr(os, name)
os.supports_dir_fd = set()
importlib.reload(shutil)
sync = os.fsync
open_ = os.open

def without_folders(path, flags, *rest, **more):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return open_(path, flags, *rest, **more)

os.open = without_folders

from fluxflow_registry.cli.main import run

for argv in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run(argv)
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        err.write(traceback.format_exc())
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}))
"""

SHARDS = "datasets.shapes={type: webdataset, shards: ['shards/*.tar'], image_size: 16}"
FOLDER = "datasets.shapes={type: folder, path: pictures, image_size: 16}"

INSPECTING = [
    ["--help"],
    ["--version"],
    ["--list-plugins"],
    ["--describe", "kl"],
    ["--schema"],
    ["--document", "pages"],
    ["small.yaml", "--validate"],
    ["small.yaml", "--explain"],
    ["small.yaml", "--explain", "--mermaid"],
    ["small.yaml", "--check"],
    ["small.yaml", "--inspect-data"],
    ["small.yaml", "--check", "--set", SHARDS],
    ["small.yaml", "--inspect-data", "--set", SHARDS],
    ["small.yaml", "--check", "--set", FOLDER],
]

TRAINING = ["small.yaml", "--set", "observers.graphs=false"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How each command ended, in one process without what POSIX has."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "small.yaml").write_text(VAE_GAN)
    write_data(folder)
    commands = [*INSPECTING, TRAINING, ["--status", "runs"], ["small.yaml", "--prove-resume"]]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, input=json.dumps(commands), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return {" ".join(argv): json.loads(line) for argv, line in zip(commands, lines, strict=True)}


@pytest.mark.parametrize("command", [" ".join(argv) for argv in INSPECTING])
def test_recipes_can_be_inspected_without_what_posix_has(ended: dict[str, dict[str, Any]], command: str) -> None:
    assert ended[command]["code"] == 0, ended[command]["err"]
    assert not [line for line in ended[command]["err"].splitlines() if not line.startswith("reading ")]


def test_training_elsewhere_prints_one_line_about_what_does_not_work(ended: dict[str, dict[str, Any]]) -> None:
    trained = ended[" ".join(TRAINING)]

    assert trained["code"] == 0, trained["err"]
    notes = [line for line in trained["err"].splitlines() if line.startswith(("note", "warning"))]
    assert notes == [
        "note: training is supported on Linux and macOS. On this system only Ctrl-C stops a run with a checkpoint, "
        "nothing prevents two commands from training the same run, and `--prove-resume` does not work"
    ]
    assert ended["--status runs"]["code"] == 0, ended["--status runs"]["err"]
    assert "finished" in ended["--status runs"]["out"]


def test_a_proof_of_resumption_is_not_tried_elsewhere(ended: dict[str, dict[str, Any]]) -> None:
    proof = ended["small.yaml --prove-resume"]

    assert proof["code"] == 2
    assert proof["err"] == (
        "--prove-resume  `--prove-resume` does not work on this system: it needs `fork` and SIGKILL\n"
    )


def test_the_readme_lists_the_systems() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "Linux and macOS" in readme
    assert "Windows" in readme
