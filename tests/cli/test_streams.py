"""Commands whose standard streams are closed or lead nowhere, and plugins that leave something that runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fluxflow_registry.cli import output

from ..small import VAE_GAN
from .test_train import environment, finished

SHORT = ["small.yaml", "--output", "out", "--set", "observers.graphs=false", "--set", "steps.vae_gan.epochs=1"]

#: How a shell, or a service manager, leaves standard error.
STREAMS = {
    "closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "a pipe without a reader": "2> >(true)",
    "a full disk": "2>/dev/full",
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    return tmp_path


def shell(command: list[str], streams: str, cwd: Path) -> subprocess.Popen[bytes]:
    words = ["bash", "-c", f'exec "$0" "$@" {streams}', sys.executable, "-m", "fluxflow_registry", *command]
    return subprocess.Popen(words, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


WAITS = """
import os
import time
from pathlib import Path

import torch
from fluxflow_registry import hookimpl


class Waits:
    default = True

    @hookimpl
    def batch_ended(self, position):
        os.write(2, b"from a library\\n") if os.fstat(2).st_rdev == os.stat(os.devnull).st_rdev else None
        if position.run_batch == 3:
            Path("there").touch()
            while not Path("continue").exists():
                time.sleep(0.01)


@hookimpl
def fluxflow_register_observers(register):
    register("waits", Waits)
"""


@pytest.mark.parametrize("streams", ["all closed", "a pipe without a reader"])
def test_a_run_trains_to_its_end_and_heeds_signals_wherever_its_messages_go(recipe: Path, streams: str) -> None:
    (recipe / "waits.py").write_text(WAITS)
    command = [*SHORT, "--plugin", "waits.py"]

    process = shell(command, STREAMS[streams], recipe)
    while not (recipe / "there").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    (recipe / "continue").touch()
    stopped = process.wait(120)
    again = shell(command, STREAMS[streams], recipe).wait(120) if streams == "all closed" else 0

    assert (stopped, again) == (75, 0)
    (folder,) = (recipe / "out").glob("small-*")
    assert len(finished(recipe / "out")) == (streams == "all closed")
    assert [path for path in folder.rglob("*") if path.is_file() and b"from a library" in path.read_bytes()] == []


@pytest.mark.parametrize("streams", STREAMS)
def test_a_mistake_has_its_exit_code_wherever_its_report_goes(recipe: Path, streams: str) -> None:
    assert shell(["nothing.yaml"], STREAMS[streams], recipe).wait(60) == 2


def test_a_message_during_another_one_is_written_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Busy:
        """A stream that this thread is writing to when a signal arrives."""

        def write(self, _: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(sys, "stderr", Busy())

    output.say("SIGTERM: stopped")

    assert capfd.readouterr().err == "SIGTERM: stopped\n"


#: What a plugin may leave, and how the note names it.
LEFT = {
    "thread `pump`": 'import threading\n    threading.Thread(target=forever, name="pump").start()',
    "process `pump`": "import multiprocessing\n    "
    'multiprocessing.get_context("fork").Process(target=forever, name="pump").start()',
}

#: The command, but hasty.
HASTY = "from fluxflow_registry.cli import main, output; output.PATIENCE = 0.3; main.run()"


PLUGIN = """
import time

from fluxflow_registry import hookimpl


def forever():
    time.sleep(1000)


@hookimpl
def fluxflow_register_losses(register):
    {left}
"""


def validate(folder: Path, recipe: str, plugin: str, program: str) -> subprocess.CompletedProcess[str]:
    """The result of a command that has loaded a plugin."""
    (folder / "leaves.py").write_text(PLUGIN.format(left=plugin))
    command = [sys.executable, "-c", program, recipe, "--validate", "--plugin", "leaves.py"]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("name", "code"), [("small.yaml", 0), ("nothing.yaml", 2)])
@pytest.mark.parametrize("left", LEFT)
def test_what_a_plugin_leaves_running_does_not_keep_the_command_alive(
    recipe: Path, left: str, name: str, code: int
) -> None:
    done = validate(recipe, name, LEFT[left], HASTY)

    assert done.returncode == code, done.stderr
    assert f"note: {left} of a plugin did not end within 0.3 seconds: exiting anyway" in done.stderr
    assert ("small.yaml is valid" in done.stdout) == (code == 0)


def test_a_thread_that_ends_soon_is_waited_for(recipe: Path) -> None:
    soon = 'threading.Thread(target=lambda: (time.sleep(1.5), open("uploaded", "w").close())).start()'

    done = validate(recipe, "small.yaml", f"import threading\n    {soon}", HASTY.replace("0.3", "30"))

    assert (done.returncode, done.stderr) == (0, "")
    assert (recipe / "uploaded").exists()


def test_a_command_within_a_longer_process_does_not_end_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PATIENCE", 0.0)
    done, ended = threading.Event(), []
    monkeypatch.setattr(output, "leave", lambda *arguments: ended.append(arguments))
    waiting = threading.Thread(target=done.wait)
    waiting.start()

    with pytest.raises(SystemExit):
        output.end(0)
    time.sleep(0.05)
    done.set()
    waiting.join()

    assert ended == []
