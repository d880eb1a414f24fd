"""Indexes of shards are kept, and a kept one is never believed when it should not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_data.shards import index, index_cache

from .shard_files import captions, opened, problems, sample, shard, with_json, written


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the shards that are hopped through."""
    paths: list[str] = []

    def counted(path: str, *others: object) -> object:
        paths.append(Path(path).name)
        return index.build(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(index_cache, "build", counted)
    return paths


def test_the_second_opening_hops_through_nothing(hopped: list[str], tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"{n}.tar", [2 * n, 2 * n + 1]) for n in range(3)]

    first, second = opened(*paths), opened(*paths)

    assert sorted(hopped) == ["0.tar", "1.tar", "2.tar"]
    assert captions(first) == captions(second) == [f"picture {number}" for number in range(6)]
    assert [first.name(i) for i in range(6)] == [second.name(i) for i in range(6)]
    assert first.digest == second.digest
    assert not list((tmp_path / "home").rglob("*.writing"))


@pytest.mark.parametrize("how", ["length", "time", "replaced"])
def test_only_the_shard_that_has_changed_is_hopped_anew(how: str, hopped: list[str], tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"{n}.tar", [n]) for n in range(3)]
    before = opened(*paths).digest
    hopped.clear()
    if how == "length":
        shard(paths[1], range(20))
    elif how == "time":
        os.utime(paths[1], ns=(1, 1))
    else:
        time = paths[1].stat().st_mtime_ns
        os.replace(shard(tmp_path / "other.tar", [7]), paths[1])
        os.utime(paths[1], ns=(time + 1, time + 1))

    source = opened(*paths)

    assert hopped == ["1.tar"]
    assert len(source) == (22 if how == "length" else 3)
    assert (source.digest == before) == (how == "time")


def test_another_choice_of_members_has_an_index_of_its_own(hopped: list[str], tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", {**sample(0), "0000.json": b'{"caption": "of json"}'})

    sources = [opened(path), opened(path, caption_key="json.caption"), opened(path), opened(path, image_key="png")]

    assert hopped == ["a.tar"] * 3
    assert [captions(source) for source in sources] == [["picture 0"], ["of json"], ["picture 0"], ["picture 0"]]
    assert len({source.digest for source in sources}) == 3


def test_the_digest_tells_corpora_apart_but_not_where_they_lie(tmp_path: Path) -> None:
    one, two = shard(tmp_path / "1.tar", [1]), shard(tmp_path / "2.tar", [2])
    moved = tmp_path / "elsewhere.tar"
    moved.write_bytes(one.read_bytes())
    longer = written(tmp_path / "3.tar", sample(1, txt=b"another length"))

    assert opened(one, two).digest == opened(moved, two).digest
    assert len({opened(*paths).digest for paths in ([one], [one, two], [two, one], [longer], [one, longer])}) == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_is_as_good_as_none(data: st.DataObject, tmp_path: Path, home: Path) -> None:
    path = tmp_path / "a.tar"
    if not path.exists():
        shard(path, range(3))
    expected = opened(path).digest
    (kept,) = home.rglob("*.index")
    content = kept.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    kept.write_bytes(data.draw(st.sampled_from([flipped, content[:at], flipped[: at + 1], content + b"x"])))

    source = opened(path)

    assert source.digest == expected
    assert captions(source) == [f"picture {number}" for number in range(3)]
    assert kept.read_bytes() == content


@pytest.mark.parametrize("obstacle", ["a file in place of the folder", "a folder in place of the index", "no disk"])
def test_what_cannot_be_kept_is_not_kept(
    obstacle: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar", range(2))
    if obstacle == "a file in place of the folder":
        home.write_text("in the way")
    elif obstacle == "a folder in place of the index":
        opened(path)
        (kept,) = home.rglob("*.index")
        kept.unlink()
        (kept / "deep").mkdir(parents=True)
    else:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

    for _ in range(2):
        assert captions(opened(path)) == ["picture 0", "picture 1"]

    assert not list(tmp_path.rglob("*.writing"))


def test_a_shard_with_a_problem_is_not_kept(tmp_path: Path, home: Path) -> None:
    path = written(tmp_path / "a.tar", {**sample(0), **with_json(1, {})})

    first, second = problems(path), problems(path)

    assert first == second
    assert not list(home.rglob("*.index"))


def test_a_shard_that_is_written_to_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "a.tar", range(2))
    enter = index._enter

    def touched(*arguments: object) -> None:
        os.utime(path, (1, 1))
        enter(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "_enter", touched)

    assert [p.message for p in problems(path)] == ["has changed while it was read; is it still being written?"]


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"FLUXFLOW_HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/h/index"),
        ({"FLUXFLOW_HOME": "", "XDG_CACHE_HOME": "/c"}, "/c/fluxflow/index"),
        ({"HOME": "/me"}, "/me/.cache/fluxflow/index"),
    ],
)
def test_indexes_are_kept_where_the_environment_says(
    variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLUXFLOW_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert str(index_cache.folder()) == place
