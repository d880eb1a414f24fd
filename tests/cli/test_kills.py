"""The command, killed or stopped by signals at random instants, over all kinds of steps, data and workers."""

from __future__ import annotations

import json
import random
import signal
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_registry.engine.run.folder import read_identity
from fluxflow_registry.engine.run.signals import WARNINGS
from fluxflow_registry.state import checkpoints

from ..forked import WARM, Started, group_is_gone, outcome
from ..small import FLOW, VAE_GAN

#: Kills and stops in all, of CI and of the slow proofs.
FEW, MANY = 20, 200
FEW_STOPS, MANY_STOPS = 10, 100

SETTINGS = {
    "shapes": [],
    "shapes, workers": ["defaults.workers=2"],
    "folder": ["datasets.shapes={type: folder, path: pictures, image_size: 16, flip: 0.5}"],
    "folder, workers": [
        "datasets.shapes={type: folder, path: pictures, image_size: 16, flip: 0.5}",
        "defaults.workers=2",
    ],
    "webdataset": ["datasets.shapes={type: webdataset, shards: ['shards/*.tar'], image_size: 16, flip: 0.5}"],
    "webdataset, workers": [
        "datasets.shapes={type: webdataset, shards: ['shards/*.tar'], image_size: 16, flip: 0.5}",
        "defaults.workers=2",
    ],
}

#: The judge draws pictures, which takes longer than all the training; the mean squared error does not.
RECIPE = VAE_GAN + FLOW.replace("metrics: {shapes_judge: {}}", "metrics: {psnr: {}}")


def write_data(root: Path) -> None:
    """The same 24 noisy pictures as a folder and as two shards."""
    (root / "pictures").mkdir()
    (root / "shards").mkdir()
    draw = random.Random(0)
    for shard in range(2):
        with tarfile.open(root / "shards" / f"{shard}.tar", "w") as tar:
            for number in range(12):
                key = f"{shard}{number:02d}"
                stream = BytesIO()
                Image.frombytes("RGB", (20, 16), draw.randbytes(20 * 16 * 3)).save(stream, "PNG")
                for name, content in ((f"{key}.png", stream.getvalue()), (f"{key}.txt", b"a picture of noise")):
                    (root / "pictures" / name).write_bytes(content)
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))


def folder(root: Path, name: str) -> Path:
    made = root / name
    made.mkdir()
    (made / "small.yaml").write_text(RECIPE)
    write_data(made)
    return made


def command(kind: str) -> list[str]:
    settings = ["defaults.log_every=1", *SETTINGS[kind]]
    if (
        kind != "shapes"
    ):  # charts take longer than all the training: one kind is enough to be killed while they are drawn
        settings.append("observers.graphs=false")
    return ["small.yaml", "--output", "out", *(word for setting in settings for word in ("--set", setting))]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], float]]:
    """For each kind of data and workers: what an undisturbed run comes to, and the seconds that it takes."""
    root = tmp_path_factory.mktemp("straight")
    found = {}
    for number, kind in enumerate(SETTINGS):
        where = folder(root, str(number))
        begun = time.monotonic()
        started = WARM.start(where, *command(kind))
        assert started.wait() == 0, started.said
        found[kind] = outcome(where / "out"), time.monotonic() - begun
    return found


def test_workers_change_nothing(straight: dict[str, tuple[dict[str, Any], float]]) -> None:
    for kind in ("shapes", "folder", "webdataset"):
        assert straight[kind][0] == straight[f"{kind}, workers"][0]


def kill_and_go_on(where: Path, kind: str, draw: random.Random, seconds: float, most: int) -> int:
    """Kill the command up to `most` times at random instants, then let it end; gives the number of kills."""
    kills, latest = 0, 1.1
    while kills < most and not finished(where):
        started = WARM.start(where, *command(kind))
        time.sleep(draw.uniform(0.1, latest) * seconds)
        latest = 0.7  # a run that is resumed ends sooner, and one that has ended cannot be killed
        started.signal(signal.SIGKILL)
        code = started.wait()
        assert group_is_gone(started.pid, 60), "workers are left"
        assert code in (0, -signal.SIGKILL), started.said
        kills += code != 0
    if not finished(where):  # it may be killed when the run has ended and the process only has to leave
        started = WARM.start(where, *command(kind))
        assert started.wait() == 0, started.said
    return kills


def finished(where: Path) -> bool:
    """Whether a run has ended in a folder."""
    return any(read_identity(run).get("finished") for run in where.glob("out/small-*"))


def remove_others(out: Path) -> None:
    """Take away folders of runs that were killed before they had saved anything, or are not wanted."""
    for run in out.glob("small-*"):
        if not (run / "results.json").exists():
            run.rename(out / f"unwanted-{run.name}")


def kill_at_random(straight: dict[str, tuple[dict[str, Any], float]], root: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    done = turn = 0
    while done < kills:
        kind = list(SETTINGS)[turn % len(SETTINGS)]
        where = folder(root, str(turn))
        done += kill_and_go_on(where, kind, draw, straight[kind][1], draw.randint(2, 4))
        remove_others(where / "out")
        assert outcome(where / "out") == straight[kind][0], f"{kind}, in {where}"
        turn += 1


def test_some_random_kills_change_nothing(straight: dict[str, tuple[dict[str, Any], float]], tmp_path: Path) -> None:
    kill_at_random(straight, tmp_path, FEW, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_kills_change_nothing(straight: dict[str, tuple[dict[str, Any], float]], tmp_path: Path) -> None:
    kill_at_random(straight, tmp_path, MANY, seed=2)


def last_logged(run: Path) -> int:
    """The last batch of the run that was completed, by the log, which is written batch by batch."""
    lines = [line for path in run.glob("graph/*.jsonl") for line in path.read_text().splitlines()]
    return max((json.loads(line)["global_step"] for line in lines), default=0)


#: What stops a run: a service manager, a closed terminal, a scheduler before its time limit.
STOPS = (signal.SIGTERM, *WARNINGS)


def stop(where: Path, kind: str, number: signal.Signals, after: float) -> tuple[Started, int, float]:
    started = WARM.start(where, *command(kind))
    while not all(map(started.catches, STOPS)):  # the interpreter's own start belongs to nobody's handler
        time.sleep(0.01)
    time.sleep(after)
    begun = time.monotonic()
    started.signal(number, group=True)
    code = started.wait()
    return started, code, time.monotonic() - begun


def stop_at_random(straight: dict[str, tuple[dict[str, Any], float]], root: Path, stops: int, seed: int) -> None:
    draw = random.Random(seed)
    done = turn = 0
    while done < stops:
        kind = list(SETTINGS)[turn % len(SETTINGS)]
        expected, seconds = straight[kind]
        where = folder(root, str(turn))
        turn += 1
        for latest in (1.1, 0.7, 0.7):  # a run that is resumed ends sooner
            number = STOPS[done % len(STOPS)]
            started, code, took = stop(where, kind, number, draw.uniform(0.0, latest) * seconds)
            assert took < 10 + seconds
            assert group_is_gone(started.pid, 60), "workers are left"
            if code == 0:
                break
            assert code == 75, (number.name, started.said)
            done += 1
            assert "Traceback" not in started.said
            for run in (where / "out").glob("small-*"):
                newest = checkpoints.listing(run / "checkpoints")
                assert (newest[0].run_batch if newest else 0) == last_logged(run)
                if newest:
                    checkpoints.verify(newest[0].folder)
        else:
            final = WARM.start(where, *command(kind))
            assert final.wait() == 0, final.said
        remove_others(where / "out")
        assert outcome(where / "out") == expected, f"{kind}, in {where}"


def test_some_stops_of_the_whole_group_at_random_instants_save_the_last_batch(
    straight: dict[str, tuple[dict[str, Any], float]], tmp_path: Path
) -> None:
    stop_at_random(straight, tmp_path, FEW_STOPS, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_stops_of_the_whole_group_at_random_instants_save_the_last_batch(
    straight: dict[str, tuple[dict[str, Any], float]], tmp_path: Path
) -> None:
    stop_at_random(straight, tmp_path, MANY_STOPS, seed=4)


def test_a_second_command_is_refused_while_the_first_one_runs_and_names_it(tmp_path: Path) -> None:
    where = folder(tmp_path, "two")
    first = WARM.pause(where, 5, *command("shapes"))

    second = WARM.start(where, *command("shapes"), "--plugin", "pause.py")

    assert second.wait() == 2
    assert f"is in use by process {first.pid} on " in second.said
    first.signal(signal.SIGTERM)
    (where / "continue").touch()
    assert first.wait() == 75


def test_the_same_command_goes_on_at_once_after_a_kill_although_workers_still_hold_the_lock(
    straight: dict[str, tuple[dict[str, Any], float]], tmp_path: Path
) -> None:
    where = folder(tmp_path, "once")
    for batch in (5, 6, 9, 14):
        started = WARM.pause(where, batch, *command("webdataset, workers"))
        started.signal(signal.SIGKILL)
        started.wait()

    last = WARM.start(where, *command("webdataset, workers"), "--plugin", "pause.py")

    assert last.wait() == 0, last.said
    assert outcome(where / "out") == straight["webdataset"][0]
