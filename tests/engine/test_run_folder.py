"""Which run a command resumes: by what is recorded in it, whatever its folder is called and whatever is damaged."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.folder import RunFolder, checked_identity, read_identity, unfinished
from fluxflow_registry.errors import RunError
from fluxflow_registry.state import store


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set the time zone of this process."""

    def change(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


def begin(root: Path, digest: str = "mine", **facts: Any) -> RunFolder:
    run = folders.new(root, "small", digest)
    run.write_identity(finished=False, facts=facts)
    return run


def test_the_newest_run_is_resumed_after_a_change_of_the_time_zone(zone: Any, tmp_path: Path) -> None:
    zone("UTC-12")
    older = begin(tmp_path)
    zone("UTC+12")
    newer = begin(tmp_path)

    found, others = unfinished(tmp_path, "small", "mine")

    assert newer.path.name < older.path.name
    assert found == newer
    assert others == {older.path: "an older unfinished run of this recipe"}


def test_the_newest_run_is_resumed_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = begin(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    newer = begin(tmp_path)

    found, others = unfinished(tmp_path, "small", "mine")

    assert found == newer
    assert list(others) == [older.path]


def test_a_resumed_run_keeps_the_time_at_which_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = begin(tmp_path), begin(tmp_path)

    first.write_identity(finished=False, facts={})

    assert unfinished(tmp_path, "small", "mine")[0] == second


def test_runs_of_an_older_version_are_ordered_by_the_names_of_their_folders(tmp_path: Path) -> None:
    for name in ("small-20260102-000000", "small-20260101-000000-1", "small-20260101-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"recipe": "mine", "finished": false}')

    found, others = unfinished(tmp_path, "small", "mine")

    assert found == RunFolder(tmp_path / "small-20260102-000000", "mine")
    assert list(others) == [tmp_path / "small-20260101-000000-1", tmp_path / "small-20260101-000000"]


def test_a_run_of_a_recipe_whose_name_begins_the_same_is_not_mentioned(tmp_path: Path) -> None:
    folders.new(tmp_path, "small-other", "yours").write_identity(finished=False, facts={"name": "small-other"})

    assert unfinished(tmp_path, "small", "mine") == (None, {})


def test_every_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    run = begin(tmp_path, name="small", command="fluxflow-run a.yaml")
    content, whole = (run.path / "run.json").read_bytes(), read_identity(run.path)

    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            with suppress(ValueError):  # found
                changed = checked_identity(json.loads(flipped))
                assert {key: changed[key] for key in whole} == whole  # white space, or the name of the digest alone


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"recipe": 3}', b"[" * 100_000])
def test_a_run_whose_record_is_damaged_is_found_by_the_recipe_in_its_checkpoints(
    content: bytes | None, tmp_path: Path
) -> None:
    run = begin(tmp_path)
    store.save(run.checkpoints, "000000001-vae", {}, {"recipe": "mine"})
    (run.path / "run.json").unlink()
    if content is not None:
        (run.path / "run.json").write_bytes(content)
    warned: list[str] = []

    found, _ = unfinished(tmp_path, "small", "mine")
    run.write_identity(finished=False, facts={}, warn=warned.append)

    assert found == run
    assert [message.splitlines()[1].strip() for message in warned] == (
        [] if content is None else ["quarantined as .run.json.damaged; training resumes without it"]
    )
    assert json.loads((run.path / "run.json").read_text())["recipe"] == "mine"


def test_a_folder_that_is_deleted_is_not_created_again_by_a_checkpoint(tmp_path: Path) -> None:
    run = begin(tmp_path)
    os.unlink(run.path / "run.json")
    run.path.rmdir()

    with pytest.raises(RunError, match="No such file"):
        store.save(run.checkpoints, "000000001-vae", {}, {})

    assert not run.path.exists()
