"""A shard that is cut, damaged, incomplete or absent is found when it is opened, and named."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_data.shards.dataset import WebDataset
from fluxflow_registry import DataError, Problem

from .shard_files import captions, opened, png, problems, sample, shard, written

BLOCK = 512
LONG = "deep/" * 60


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))


def small(path: Path, form: int) -> Path:
    """Three samples, the last of them with long names."""
    members = {**sample(0), **sample(1, txt=b"x" * 700), **sample(2, key=f"{LONG}k")}
    if form == tarfile.USTAR_FORMAT:
        members = {name.replace(LONG, LONG[:150]): data for name, data in members.items()}
    return written(path, members, form)


FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def end_of(path: Path) -> int:
    """Where the last member ends: two blocks of zeros follow."""
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    return last.offset_data + -(-last.size // BLOCK) * BLOCK


def headers(path: Path) -> list[int]:
    """The offsets of all headers, those of long names and attributes included."""
    content, found, offset = path.read_bytes(), [], 0
    while content[offset : offset + BLOCK].strip(b"\0"):
        found.append(offset)
        offset += BLOCK + -(-int(content[offset + 124 : offset + 135], 8) // BLOCK) * BLOCK
    return found


@FORM
def test_a_cut_at_any_boundary_of_blocks_is_found_and_named(form: int, tmp_path: Path) -> None:
    path = small(tmp_path / "a.tar", form)
    whole, end = path.read_bytes(), end_of(path)
    expected = captions(opened(path))

    for length in range(0, len(whole), BLOCK):
        path.write_bytes(whole[:length])
        if length >= end + 2 * BLOCK:  # some programs write no more than these two: nothing is missing
            assert captions(opened(path)) == expected
            continue
        (problem,) = problems(path)
        assert str(problem.where) == str(path)
        assert problem.message.startswith("is cut" if length else "is empty: 0 bytes")
        if length:
            assert "at byte " in problem.message


@given(data=st.data())
def test_a_cut_anywhere_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = small(tmp_path_factory.mktemp("cut") / "a.tar", tarfile.PAX_FORMAT)
    os.truncate(path, data.draw(st.integers(1, end_of(path) + 2 * BLOCK - 1)))

    (problem,) = problems(path)

    assert str(problem.where) == str(path)
    assert problem.message.startswith("is cut")


@FORM
def test_any_one_bit_of_any_header_that_changes_is_found_with_its_place(form: int, tmp_path: Path) -> None:
    path = small(tmp_path / "a.tar", form)
    whole = bytearray(path.read_bytes())

    for start in headers(path):
        for offset in range(start, start + BLOCK):
            for bit in range(8) if 148 <= offset - start < 156 else ((offset + form) % 8, 7):
                changed = bytearray(whole)
                changed[offset] ^= 1 << bit
                path.write_bytes(changed)

                (problem,) = problems(path)

                assert str(problem.where) == str(path)
                if start == 0 and 257 <= offset < 262:
                    assert problem.message == "is no tar archive"
                else:
                    assert problem.message.startswith(f"the header at byte {start} is damaged: ")
                    assert "name in it" in dict(problem.notes)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_no_bit_of_a_long_name_changes_without_being_found(form: int, tmp_path: Path) -> None:
    path = small(tmp_path / "a.tar", form)
    whole = path.read_bytes()
    first = whole.index(LONG.encode())
    last = whole.index(b"\0", first)

    for offset in range(whole.rindex(b"\0", 0, first) + 1, last):
        changed = bytearray(whole)
        changed[offset] ^= 1 << offset % 8
        path.write_bytes(changed)

        assert any(str(path) in str(problem.where) for problem in found_in(path)), offset


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_any_byte_behind_the_last_member_that_changes_is_found(
    place: int, change: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = shard(tmp_path_factory.mktemp("end") / "a.tar", range(2))
    content = bytearray(path.read_bytes())
    at = end_of(path) + place % (len(content) - end_of(path))
    content[at] = change
    path.write_bytes(content)

    (problem,) = problems(path)

    block = at // BLOCK * BLOCK
    assert str(problem.where) == str(path)
    assert f"at byte {at}," in problem.message or f"header at byte {block} " in problem.message


def test_a_header_of_zeros_is_no_end(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", range(4))
    content = bytearray(path.read_bytes())
    start = headers(path)[4]
    content[start : start + BLOCK] = bytes(BLOCK)
    path.write_bytes(content)

    (problem,) = problems(path)

    assert problem.message == f"there are data at byte {start + BLOCK}, behind the block of zeros that ends an archive"
    assert dict(problem.notes) == {"last member": "0001.txt"}


def test_the_member_that_is_cut_is_named_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", {**sample(0), **sample(1, txt=b"x" * 2000)})
    start = headers(path)[-1]
    os.truncate(path, start + 3 * BLOCK)

    (problem,) = problems(path)

    assert problem.message == f"is cut: `0001.txt` at byte {start} has 2000 bytes, of which 1024 are there"


def test_two_archives_one_behind_the_other_are_not_taken_for_the_first(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", range(2))
    path.write_bytes(path.read_bytes() + path.read_bytes())

    assert "behind the block of zeros that ends an archive" in problems(path)[0].message


def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"no archive" * 200)
    (tmp_path / "packed.tar").write_bytes(gzip.compress(os.urandom(4000)))
    (tmp_path / "short.tar").write_bytes(b"x")
    (tmp_path / "folder.tar").mkdir()
    paths = [tmp_path / f"{name}.tar" for name in ("text", "packed", "short", "folder")]

    assert {Path(str(p.where)).stem: p.message for p in problems(*paths)} == {
        "text": "is no tar archive",
        "packed": "is no tar archive: it is compressed by gzip, and shards are read where they lie",
        "short": "is cut at byte 1: the two blocks of zeros that end an archive are missing",
        "folder": "is no file; shards are tar files",
    }


def test_links_and_devices_are_told_and_nothing_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    kinds = {"hard link": tarfile.LNKTYPE, "symbolic link": tarfile.SYMTYPE, "character device": tarfile.CHRTYPE}
    kinds |= {"block device": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE, "entry of kind `V`": b"V"}
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate(kinds.values()):
            header = tarfile.TarInfo(f"{number}.png")
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)

    told = {str(p.where).rsplit(":", 1)[1]: p.message for p in problems(path)}

    assert told == {
        f"{number}.png": f"is a {kind}, at byte {BLOCK * number}; only files are read"
        for number, kind in enumerate(kinds)
    }


def test_a_key_that_is_there_twice_is_told_with_both_places(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in [("a.png", png(0)), ("a.txt", b"one"), ("a.txt", b"two"), ("a.PNG", png(1))]:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    places = headers(path)

    assert [(str(p.where), p.message) for p in problems(path)] == [
        (f"{path}:a", f"has two members `txt`: at byte {places[1]} and at byte {places[2]}"),
        (f"{path}:a", f"has two members `png`: at byte {places[0]} and at byte {places[3]}"),
    ]


def test_a_sample_without_picture_or_caption_is_told_by_shard_and_key(tmp_path: Path) -> None:
    members = {**sample(0), "b.txt": b"no picture", "c.png": png(1), "c.cls": b"7", "d.json": b"{}"}
    path = written(tmp_path / "a.tar", members)

    found = [(str(p.where), p.message, dict(p.notes)) for p in problems(path)]

    pictures, texts = "jpg, jpeg, png, webp", "txt"
    assert found == [
        (f"{path}:b", "has no picture", {"looked for": pictures, "has": "txt"}),
        (f"{path}:c", "has no caption", {"looked for": texts, "has": "cls, png"}),
        (f"{path}:d", "has no picture", {"looked for": pictures, "has": "json"}),
        (f"{path}:d", "has no caption", {"looked for": texts, "has": "json"}),
    ]


def test_a_thousand_problems_of_one_kind_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", {f"{number}.png": b"" for number in range(1000)})

    found = problems(path)

    assert len(found) == 9
    assert (str(found[-1].where), found[-1].message) == (str(path), "992 more have no caption")


def test_problems_of_all_shards_come_in_one_report(tmp_path: Path) -> None:
    cut, twice = shard(tmp_path / "cut.tar", range(2)), shard(tmp_path / "twice.tar", [2])
    os.truncate(cut, 1024)

    found = [
        (Path(str(p.where)).name, p.message.split(" at ")[0]) for p in problems(cut, tmp_path / "no", twice, twice)
    ]

    assert found == [("twice.tar", "is named twice"), ("no", "there is no such shard"), ("cut.tar", "is cut")]


def test_every_missing_shard_of_a_range_is_named_up_to_a_number(tmp_path: Path) -> None:
    shard(tmp_path / "03.tar", [0])

    few = problems(f"{tmp_path}/{{00..04}}.tar")
    many = problems(f"{tmp_path}/{{00..99}}.tar")

    assert [str(p.where) for p in few] == [f"{tmp_path}/{name}.tar" for name in ("00", "01", "02", "04")]
    assert {p.message for p in few} == {"there is no such shard"}
    assert [p.message for p in many[-2:]] == ["there is no such shard", "75 more shards are not there"]
    assert len(many) == 25


def test_wildcards_that_match_nothing_and_shards_without_samples_are_told(tmp_path: Path) -> None:
    (nothing,) = problems(tmp_path / "*.tar")
    (empty,) = problems(written(tmp_path / "a.tar", {"README": b"x"}))

    assert (str(nothing.where), nothing.message) == (f"{tmp_path}/*.tar", "there is no such file")
    assert empty.message == "there are no samples in these shards"
    assert dict(empty.notes) == {"looked for": "pictures: jpg, jpeg, png, webp\ncaptions: txt"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [0])
    path.chmod(0)

    assert problems(path)[0].message == "cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shards": []}, "`shards` is empty"),
        ({"shards": ""}, "`shards` has an empty entry"),
        ({"shards": ["a.tar", "s3://bucket/a.tar"]}, "names a `s3:`; files, http: and https: are read"),
        ({"shards": "pipe:curl x"}, "names a pipe; no command is run by a recipe"),
        ({"shards": "https://me:secret@example.org/a.tar"}, "holds a URL with a name or password"),
        ({"shards": "https:///a.tar"}, "which has no host"),
        ({"shards": "a", "token_env": ""}, "token_env"),
        ({"shards": "a", "label_key": "cls"}, "the extension of a member that holds JSON is expected"),
        (
            {"shards": "a", "label_key": "json", "caption_key": "a..b"},
            "with `label_key` a name in the JSON is expected",
        ),
        ({"shards": "a", "fetch_limit": 0.0}, "fetch_limit"),
        ({"shards": "{0..999999999}.tar"}, "stands for 1,000,000,000 shards; 100,000 at most"),
        ({"shards": "{0..999}/{0..999}.tar"}, "stands for 1,000,000 shards; 100,000 at most"),
        ({"shards": "a", "image_key": "jpg;;png"}, "`image_key` is `jpg;;png`; extensions are expected"),
        ({"shards": "a", "image_key": ""}, "extensions are expected"),
        ({"shards": "a", "caption_key": ""}, "one extension is expected, such as `txt` or `json.caption`"),
        ({"shards": "a", "caption_key": "txt;caption"}, "one extension is expected"),
        ({"shards": "a", "caption_key": "json"}, "lacks the name in the JSON: `json.caption`, for one"),
        ({"shards": "a", "image_size": 0}, "image_size"),
        ({"shards": "a", "flip": -0.1}, "flip"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WebDataset(**options)  # type: ignore[arg-type]


@given(at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=64))
def test_whatever_bytes_stand_in_a_shard_it_is_opened_or_refused_by_name(
    at: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = small(tmp_path_factory.mktemp("junk") / "a.tar", tarfile.PAX_FORMAT)
    whole = path.read_bytes()
    start = int(at * len(whole))
    path.write_bytes(whole[:start] + junk + whole[start + len(junk) :])

    found = found_in(path)

    assert all(str(problem.where).startswith(str(path)) for problem in found)


def found_in(path: Path) -> tuple[Problem, ...]:
    try:
        opened(path)
    except DataError as error:
        return error.problems
    return ()
