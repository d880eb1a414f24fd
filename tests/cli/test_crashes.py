"""A command that dies at any of its file operations, a write half done, is gone on with to the very same end."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.engine.run.folder import read_identity

from ..forked import WARM, outcome
from ..small import FLOW, VAE_GAN

#: Two steps of two and one epochs of two batches, saved after every second one.
RECIPE = (VAE_GAN + FLOW[: FLOW.index("    evaluate:")]).replace("epochs: 2", "epochs: 1", 1)
SMALL = ["small.yaml", "--output", "out", "--set", "datasets.shapes.length=8", "--set", "defaults.checkpoint_every=2"]

#: The charts at the end take longer than all the rest, and have a test of their own.
PLAIN = [*SMALL, "--set", "observers.graphs=false"]

#: Of the operations, CI tries one in so many.
SAMPLED = 71


def folder(root: Path, name: str) -> Path:
    made = root / name
    made.mkdir()
    (made / "small.yaml").write_text(RECIPE)
    return made


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What the undisturbed run comes to, and how many file operations it takes."""
    where = folder(tmp_path_factory.mktemp("crashes"), "straight")
    started = WARM.start(where, *PLAIN, die_at=0)
    assert started.wait() == 0, started.said
    counted = re.search(r"operations (\d+)", started.said)
    assert counted is not None
    return outcome(where / "out"), int(counted[1])


def die_and_go_on(where: Path, at: int, command: Sequence[str] = PLAIN) -> dict[str, Any]:
    died = WARM.start(where, *command, die_at=at)
    assert died.wait() == -signal.SIGKILL, died.said
    return go_on(where, command)


def go_on(where: Path, command: Sequence[str]) -> dict[str, Any]:
    if not any(read_identity(run).get("finished") for run in (where / "out").glob("small-*")):
        again = WARM.start(where, *command)
        assert again.wait() == 0, again.said
    for run in (where / "out").glob("small-*"):
        if not read_identity(run).get("finished"):  # it died before there was anything to go on with
            assert not (run / "checkpoints").exists()
            run.rename(where / run.name)
    left = [path.name for path in (where / "out").rglob(".*") if path.name not in (".lock", ".run.json.writing")]
    assert left == [], f"left behind: {left}"
    return outcome(where / "out")


def test_dying_at_a_sample_of_the_file_operations_changes_nothing(
    straight: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, operations = straight

    assert operations > 200
    for at in range(5, operations, SAMPLED):
        assert die_and_go_on(folder(tmp_path, str(at)), at) == expected, f"after operation {at}"


def test_dying_while_the_charts_are_written_changes_nothing(
    straight: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, operations = straight  # those of the charts come among the last ones
    where = folder(tmp_path, "charts")

    died = WARM.start(where, *SMALL, die_at=operations)

    assert died.wait() == -signal.SIGKILL, died.said
    assert 1 <= len(list(where.glob("out/small-*/graph/*.png"))) <= 4
    assert go_on(where, SMALL) == expected
    assert len(list(where.glob("out/small-*/graph/*.png"))) == 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
def test_dying_at_any_file_operation_changes_nothing(
    straight: tuple[dict[str, Any], int], tmp_path: Path, part: int
) -> None:
    expected, operations = straight

    for at in range(1 + part, operations + 20, 4):  # with those of the charts
        assert die_and_go_on(folder(tmp_path, str(at)), at, SMALL) == expected, f"after operation {at}"


@pytest.mark.parametrize("times", [3])
def test_dying_again_and_again_changes_nothing(
    straight: tuple[dict[str, Any], int], tmp_path: Path, times: int
) -> None:
    expected, operations = straight
    where = folder(tmp_path, "often")

    for at in (operations // 3, operations // 4, operations // 2)[:times]:
        WARM.start(where, *PLAIN, die_at=at).wait()
    again = WARM.start(where, *PLAIN)

    assert again.wait() == 0, again.said
    assert outcome(where / "out") == expected
