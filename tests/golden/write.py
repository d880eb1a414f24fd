"""How the golden runs were written: an older version started them, was interrupted, and resumed them to their end.

    python -m tests.golden.write PYTHON [NAME ...]

PYTHON is the interpreter of an environment in which the older version is installed. Nothing of this repository runs in
it but `pinned.py`, which starts the commands that are installed there. For each golden run, `<name>/` holds

    recipe.yaml ...   what the command is run with
    out/<run>/        the run's folder as the older version left it when it was interrupted within an epoch
    expected/         how that run ended when the older version resumed it: final/, what it logged and measured, its
                      images, and the machine that computed them

A run is written only if the older version ends the resumed run as it ends one without an interruption. A later version
adds runs of its own under other names; these stay as they are.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

HERE = Path(__file__).resolve().parent

PROMPTS = ("--prompt", "a large red circle on a white background", "--prompt", "a small blue cross, top left")


@frozen
class Golden:
    """A golden run: its command, how it was interrupted, and the images that are generated from it."""

    name: str
    #: What interrupts the run: SIGKILL after a checkpoint that was due, or SIGTERM after a batch.
    signal: signal.Signals
    #: The batch of the run after which the signal is sent.
    batch: int
    plugins: tuple[str, ...] = ()
    #: For the interrupted and for the finished run: arguments of `fluxflow-generate`.
    images: Mapping[str, Sequence[str]] = {}

    @property
    def command(self) -> list[str]:
        """The command that starts and resumes the run, in a copy of its folder."""
        plugins = [word for file in self.plugins for word in ("--plugin", file)]
        return ["fluxflow-run", "recipe.yaml", "--device", "cpu", "--output", "out", *plugins]

    def generate(self, run: Path, state: str) -> list[str]:
        """The command that generates the images of the interrupted or the finished run."""
        return ["fluxflow-generate", str(run), "--device", "cpu", "--json", "--output", "images", *self.images[state]]


RUNS = {
    golden.name: golden
    for golden in (
        Golden("vae", signal.SIGTERM, 9, plugins=("outside.py",)),
        Golden("vae_gan", signal.SIGKILL, 9),
        Golden(
            "flow",
            signal.SIGTERM,
            14,
            images={
                "interrupted": (*PROMPTS, "--seed", "4", "--guidance", "100"),
                "finished": (
                    *PROMPTS,
                    "--count",
                    "2",
                    "--guidance",
                    "100",
                    "--sampler",
                    "heun",
                    "--steps",
                    "3",
                    "--image-size",
                    "24x16",
                ),
            },
        ),
    )
}


@frozen
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str


#: Run a command, given as words, in a folder.
Call = Callable[[Sequence[str], Path], Answer]


@contextmanager
def commands(python: str) -> Iterator[Call]:
    """Run commands with the pinned arithmetic of `pinned.py`, one after another."""
    with subprocess.Popen([python, HERE / "pinned.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def call(words: Sequence[str], folder: Path) -> Answer:
            requests.write(json.dumps({"arguments": list(words), "folder": str(folder)}).encode() + b"\n")
            requests.flush()
            return Answer(**json.loads(answers.readline()))

        yield call
        requests.close()


def copied(name: str, to: Path, *, started: bool = True) -> Path:
    """Copy a golden run, without what is expected of it, and without its run's folder where it is not `started`."""
    left_out = shutil.ignore_patterns("expected", *([] if started else ["out"]), "__pycache__")
    return Path(shutil.copytree(HERE / name, to / name, ignore=left_out))


def run_in(folder: Path) -> Path:
    """The only run of a copy."""
    (run,) = (folder / "out").iterdir()
    return run


def outcome(run: Path) -> dict[str, Any]:
    """The end of a run: its final files, each logged line, and its evaluations, without times and names of sessions."""
    final = run / "final"
    return {
        "final": {str(path.relative_to(final)): path.read_bytes() for path in sorted(final.rglob("*.*"))},
        "logged": logged(run),
        "results": {name: step["evaluations"] for name, step in read(run / "results.json")["steps"].items()},
    }


def logged(run: Path) -> list[dict[str, Any]]:
    """What the run has logged, without what depends on the clock or on where it was interrupted."""
    passing = {"timestamp", "session_id", "seconds_per_batch", "resumed_after"}
    lines = [line for path in sorted(run.glob("graph/*.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in json.loads(line).items() if key not in passing} for line in lines]


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def newest(run: Path) -> tuple[str, dict[str, int]]:
    """The newest checkpoint of a run, and its position."""
    folder = max((run / "checkpoints").glob("[0-9]*"), key=lambda path: path.name)
    return folder.name, read(folder / "state.json")["meta"]["position"]


def interrupt(golden: Golden, python: str, to: Path) -> Path:
    """Start a run and interrupt it, again and again until that happens within an epoch, and return its folder."""
    for attempt in range(50):
        folder = copied(golden.name, to / f"attempt-{attempt}", started=False)
        with subprocess.Popen([python, HERE / "pinned.py", *golden.command], cwd=folder) as process:
            while process.poll() is None and not is_there(golden, folder):
                time.sleep(0.0005)
            process.send_signal(golden.signal)
        if process.returncode and well_interrupted(golden, run_in(folder)):
            return folder
    raise RuntimeError(f"{golden.name}: no run was interrupted where it should be")


def is_there(golden: Golden, folder: Path) -> bool:
    """Whether a run has reached the checkpoint or the logged batch after which it is interrupted."""
    if golden.signal == signal.SIGKILL:
        return any(folder.glob(f"out/*/checkpoints/{golden.batch:09d}-*"))
    log = b"".join(path.read_bytes() for path in folder.glob("out/*/graph/*.jsonl"))
    return f'"global_step": {golden.batch},'.encode() in log


def well_interrupted(golden: Golden, run: Path) -> bool:
    """Whether the newest checkpoint is within a later epoch of its step, and the log of a killed run goes beyond it."""
    if any((run / "checkpoints").glob(".*")):  # killed while saving: the tests of kills cover that
        return False
    _, position = newest(run)
    within = position["batch"] > 0 and position["epoch"] > 0 and position["run_batch"] >= golden.batch
    last = max(line["global_step"] for line in logged(run))
    return within and (golden.signal != signal.SIGKILL or last > position["run_batch"])


def generated(golden: Golden, state: str, run: Path, folder: Path, call: Call) -> list[Path]:
    """Generate the images of a run, and return their files in order."""
    answer = call(golden.generate(run.relative_to(folder), state), folder)
    if answer.code:
        raise RuntimeError(answer.err)
    return [folder / image["file"] for image in json.loads(answer.out)]


def write(golden: Golden, python: str, call: Call, to: Path) -> None:
    """Write one golden run; raises RuntimeError where the older version itself does not come to the same end."""
    straight = copied(golden.name, to / "straight", started=False)
    finish(golden, straight, call)
    stopped = interrupt(golden, python, to)
    (run_in(stopped) / ".lock").unlink()  # it names a process and a machine
    resumed = Path(shutil.copytree(stopped, to / "resumed" / golden.name))
    finish(golden, resumed, call)
    end = outcome(run_in(resumed))
    if end != outcome(run_in(straight)):
        raise RuntimeError(f"{golden.name}: this version does not resume its own run bit by bit")

    expected = HERE / golden.name / "expected"
    for old in (expected, HERE / golden.name / "out"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(stopped / "out", HERE / golden.name / "out")
    shutil.copytree(run_in(resumed) / "final", expected / "final")
    (expected / "logged.jsonl").write_text("".join(json.dumps(line) + "\n" for line in end["logged"]))
    (expected / "results.json").write_text(json.dumps(end["results"], indent=1) + "\n")
    (expected / "machine.json").write_text(call(["probe"], to).out)
    for state, folder in (("interrupted", stopped), ("finished", resumed)):
        if state in golden.images:
            (expected / state).mkdir()
            for number, file in enumerate(generated(golden, state, run_in(folder), folder, call)):
                shutil.copy(file, expected / state / f"{number}.png")


def finish(golden: Golden, folder: Path, call: Call) -> None:
    """Run the command of a golden run to its end."""
    answer = call(golden.command, folder)
    if answer.code:
        raise RuntimeError(answer.err)


def main(python: str, *names: str) -> None:
    """Write the golden runs of these names, or all of them."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder, commands(python) as call:
        for name in names or RUNS:
            write(RUNS[name], python, call, Path(folder, name))


if __name__ == "__main__":
    main(*sys.argv[1:])
