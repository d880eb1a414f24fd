"""Indexes of shards are kept, and a stale or damaged one is never used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_data.cache import Cache, cache_folder
from fluxflow_data.shards import index
from fluxflow_registry import Notice

from .shard_files import captions_of, open_shards, problems_in, sample, with_json, write_shard, write_tar


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards whose headers are read."""
    names: list[str] = []
    read = index.index_file

    def index_file(path: str, *others: object) -> object:
        names.append(Path(path).name)
        return read(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "index_file", index_file)
    return names


def test_the_second_opening_reads_no_headers(indexed: list[str], tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{n}.tar", [2 * n, 2 * n + 1]) for n in range(3)]

    first, second = open_shards(*paths), open_shards(*paths)

    assert sorted(indexed) == ["0.tar", "1.tar", "2.tar"]
    assert captions_of(first) == captions_of(second) == [f"image {number}" for number in range(6)]
    assert [first.name(i) for i in range(6)] == [second.name(i) for i in range(6)]
    assert first.digest == second.digest
    assert len([path for path in (tmp_path / "home").rglob("*") if path.is_file()]) == 3


@pytest.mark.parametrize("how", ["length", "time", "replaced"])
def test_only_a_changed_shard_is_indexed_again(how: str, indexed: list[str], tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{n}.tar", [n]) for n in range(3)]
    before = open_shards(*paths).digest
    indexed.clear()
    if how == "length":
        write_shard(paths[1], range(20))
    elif how == "time":
        os.utime(paths[1], ns=(1, 1))
    else:
        time = paths[1].stat().st_mtime_ns
        os.replace(write_shard(tmp_path / "other.tar", [7]), paths[1])
        os.utime(paths[1], ns=(time + 1, time + 1))

    source = open_shards(*paths)

    assert indexed == ["1.tar"]
    assert len(source) == (22 if how == "length" else 3)
    assert (source.digest == before) == (how == "time")


def test_another_choice_of_members_has_an_index_of_its_own(indexed: list[str], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample(0), "0000.json": b'{"caption": "of json"}'})

    sources = [
        open_shards(path),
        open_shards(path, caption_key="json.caption"),
        open_shards(path),
        open_shards(path, image_key="png"),
    ]

    assert indexed == ["a.tar"] * 3
    assert [captions_of(source) for source in sources] == [["image 0"], ["of json"], ["image 0"], ["image 0"]]
    assert len({source.digest for source in sources}) == 3


def test_the_digest_depends_on_the_samples_but_not_on_the_folder(tmp_path: Path) -> None:
    one, two = write_shard(tmp_path / "1.tar", [1]), write_shard(tmp_path / "2.tar", [2])
    moved = tmp_path / "elsewhere.tar"
    moved.write_bytes(one.read_bytes())
    longer = write_tar(tmp_path / "3.tar", sample(1, txt=b"another length"))

    assert open_shards(one, two).digest == open_shards(moved, two).digest
    assert len({open_shards(*paths).digest for paths in ([one], [one, two], [two, one], [longer], [one, longer])}) == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_is_not_used(data: st.DataObject, tmp_path: Path, home: Path) -> None:
    path = tmp_path / "a.tar"
    if not path.exists():
        write_shard(path, range(3))
    expected = open_shards(path).digest
    (kept,) = home.rglob("*.index")
    content = kept.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    kept.write_bytes(data.draw(st.sampled_from([flipped, content[:at], flipped[: at + 1], content + b"x"])))

    source = open_shards(path)

    assert source.digest == expected
    assert captions_of(source) == [f"image {number}" for number in range(3)]
    assert kept.read_bytes() == content


@pytest.mark.parametrize("obstacle", ["a file in place of the folder", "a folder in place of the index", "no disk"])
def test_an_index_that_cannot_be_written_is_not_kept(
    obstacle: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path / "a.tar", range(2))
    if obstacle == "a file in place of the folder":
        home.write_text("in the way")
    elif obstacle == "a folder in place of the index":
        open_shards(path)
        (kept,) = home.rglob("*.index")
        kept.unlink()
        (kept / "deep").mkdir(parents=True)
    else:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

    for _ in range(2):
        with pytest.warns(Notice, match=rf"cannot cache the index of the data in {home}/index: "):
            source = open_shards(path)
        assert captions_of(source) == ["image 0", "image 1"]

    assert not list(tmp_path.rglob(".*"))


def test_two_processes_may_keep_one_entry_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may have the same number, in two containers."""
    cache = Cache("index", ".index", b"magic\n")
    path, sync = cache.path("a"), os.fsync

    def write_again(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        cache.write(path, {"writer": 2}, [])
        sync(descriptor)

    cache.write(path, {"writer": 0}, [])
    monkeypatch.setattr(os, "fsync", write_again)
    cache.write(path, {"writer": 1}, [])

    facts, _ = cache.read(path) or ({}, b"")
    assert facts == {"writer": 1}
    assert list(home.rglob("*.*")) == [path]


def test_the_index_of_a_damaged_shard_is_not_kept(tmp_path: Path, home: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample(0), **with_json(1, {})})
    os.truncate(path, 3000)

    first, second = problems_in(path), problems_in(path)

    assert first == second
    assert not list(home.rglob("*.index"))


def test_what_is_wrong_with_samples_is_kept_with_the_index(indexed: list[str], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample(0), **with_json(1, {}), "\udcff.txt": b"no image"})

    first, second = problems_in(path), problems_in(path)
    left_out = [open_shards(path, damaged_at_most=0.7).left_out for _ in range(2)]

    assert indexed == ["a.tar"]
    assert first == second
    assert left_out[0] == left_out[1]
    assert [problem.subject for problem in left_out[0]] == ["0001", "\udcff"]


def test_a_shard_that_is_written_while_it_is_indexed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path / "a.tar", range(2))
    rows = index._rows

    def touch(*arguments: object) -> object:
        os.utime(path, (1, 1))
        return rows(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "_rows", touch)

    (problem,) = problems_in(path)
    assert problem.code == "changed-file"
    assert problem.message == "shard `a.tar` changed while it was indexed: wait until it is complete"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FLUXFLOW_HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/h/index"),
        ({"FLUXFLOW_HOME": "", "XDG_CACHE_HOME": "/c"}, "/c/fluxflow/index"),
        ({"HOME": "/me"}, "/me/.cache/fluxflow/index"),
    ],
)
def test_indexes_are_kept_where_the_environment_says(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLUXFLOW_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert str(cache_folder("index")) == folder
