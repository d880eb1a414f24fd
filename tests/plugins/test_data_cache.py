"""The cache of datasets: without a folder, or with anything in its place, nothing is kept and nothing is lost."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from fluxflow_data.cache import Cache, cache_folder
from fluxflow_data.shards.remote import Downloads, RemoteFile
from fluxflow_registry import DataError, Notice

CACHE = Cache("things", ".thing", b"a thing\n")


def nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user id of a container that belongs to nobody, and has no home."""
    for name in ("FLUXFLOW_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "home").touch()
    monkeypatch.setenv("FLUXFLOW_HOME", str(folder / "home"))


def no_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("FLUXFLOW_HOME", str(folder / "home"))
    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("home", [nobody, a_file, no_permission])
def test_without_a_folder_for_the_cache_nothing_is_kept(
    home: Callable[[Path, pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(tmp_path, monkeypatch)
    path = CACHE.path("a", 1)

    failure = f"cannot cache the index of the data in {tmp_path / 'home' / 'things'}:"
    notes = [] if home is nobody else [failure]
    with warnings.catch_warnings(record=True, action="always") as caught:
        CACHE.write(path, {"a": 1}, [np.zeros(3)])

    assert [str(each.message)[: len(failure)] for each in caught] == notes
    assert all(each.category is Notice for each in caught)
    assert CACHE.read(path) is None


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_not_a_file_in_the_cache_is_not_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path))
    path = CACHE.path("a", 1)
    assert path is not None
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")

    assert CACHE.read(path) is None
    with pytest.warns(Notice, match="cannot cache the index of the data in ") if kind == "folder" else nullcontext():
        CACHE.write(path, {"a": 1}, [np.zeros(3)])

    kept = CACHE.read(path)
    assert (kept is None) == (kind == "folder")
    assert Path("/dev/zero").is_char_device()


def test_a_shard_that_must_be_downloaded_whole_needs_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody(tmp_path, monkeypatch)

    with pytest.raises(DataError) as raised:
        Downloads(None, True, 1.0).download(RemoteFile("http://127.0.0.1:9/a.tar", None, 5, 1, ranged=False))

    assert cache_folder("shards") is None
    assert "it must be downloaded whole, but this user has no home folder" in str(raised.value)
    assert raised.value.problems[0].notes[-1] == ("hint", "set FLUXFLOW_HOME to a folder")
