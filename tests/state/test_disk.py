"""Files that are replaced whole, by any number of processes, and whatever interrupts them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxflow_registry import write_file


def test_of_two_writers_of_a_shared_file_the_last_to_finish_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "a.json", os.fsync

    def write_again(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        write_file(path, b"second", shared=True)
        assert path.read_bytes() == b"second"
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", write_again)
    write_file(path, b"first", shared=True)

    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_has_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    (tmp_path / ".a.json.writing").write_bytes(b"half of a much longer fi")

    write_file(path, b"new")

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_writer_leaves_no_file_behind(
    error: BaseException, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_file(path, b"old")

    def interrupt(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(type(error)):
        write_file(path, b"new", shared)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()

    write_file(tmp_path / "inner" / "a.json", b"new")

    assert (tmp_path / "inner" / "a.json").stat().st_mode == (tmp_path / "usual").stat().st_mode
