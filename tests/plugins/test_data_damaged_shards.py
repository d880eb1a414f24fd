"""A shard that is truncated, damaged, incomplete or missing is found when it is opened, and reported by name."""

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

from .shard_files import captions_of, open_shards, png, problems_in, sample, write_shard, write_tar

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
    return write_tar(path, members, form)


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
def test_a_truncation_between_any_two_blocks_is_reported_with_its_shard(form: int, tmp_path: Path) -> None:
    path = small(tmp_path / "a.tar", form)
    whole, end = path.read_bytes(), end_of(path)
    expected = captions_of(open_shards(path))

    for length in range(0, len(whole), BLOCK):
        path.write_bytes(whole[:length])
        if length >= end + 2 * BLOCK:  # some programs write no more than these two: nothing is missing
            assert captions_of(open_shards(path)) == expected
            continue
        (problem,) = problems_in(path)
        assert str(problem.where) == str(path)
        assert (problem.code, problem.subject) == ("damaged-shard", "a.tar")
        assert problem.message.startswith(
            "shard `a.tar` is truncated" if length else "shard `a.tar` is empty (0 bytes)"
        )
        if length:
            assert "at byte " in problem.message


@given(data=st.data())
def test_a_truncation_anywhere_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = small(tmp_path_factory.mktemp("cut") / "a.tar", tarfile.PAX_FORMAT)
    os.truncate(path, data.draw(st.integers(1, end_of(path) + 2 * BLOCK - 1)))

    (problem,) = problems_in(path)

    assert str(problem.where) == str(path)
    assert problem.message.startswith("shard `a.tar` is truncated")


@FORM
def test_any_changed_bit_of_any_header_is_found_with_its_position(form: int, tmp_path: Path) -> None:
    whole = small(tmp_path / "a.tar", form).read_bytes()
    starts = headers(tmp_path / "a.tar")
    changes = [
        (start, offset, 1 << bit)
        for start in starts
        for offset in range(start, start + BLOCK)
        for bit in (range(8) if 148 <= offset - start < 156 else {(offset + form) % 8, 7})
    ]
    # Many copies are opened together, and changed in place: a shard for each change would take minutes.
    copies = [tmp_path / f"{number}.tar" for number in range(64)]
    for copy in copies:
        copy.write_bytes(whole)

    for batch in (changes[first : first + len(copies)] for first in range(0, len(changes), len(copies))):
        for copy, (_, offset, bits) in zip(copies, batch, strict=False):
            change(copy, offset, whole[offset] ^ bits)

        problems = problems_in(*copies[: len(batch)])

        for problem, copy, (start, offset, _) in zip(problems, copies[: len(batch)], batch, strict=True):
            assert str(problem.where) == str(copy)
            if start == 0 and 257 <= offset < 262:
                assert problem.message == f"shard `{copy.name}` is not a tar archive"
            else:
                assert problem.message == (
                    f"shard `{copy.name}` is damaged: the header at byte {start} does not match its checksum"
                )
                assert dict(problem.notes)["received"].startswith("a header with the name `")
            change(copy, offset, whole[offset])


def change(path: Path, offset: int, byte: int) -> None:
    """Replace one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([byte]))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_any_changed_bit_of_a_long_name_is_found(form: int, tmp_path: Path) -> None:
    path = small(tmp_path / "a.tar", form)
    whole = path.read_bytes()
    first = whole.index(LONG.encode())
    last = whole.index(b"\0", first)

    for offset in range(whole.rindex(b"\0", 0, first) + 1, last):
        changed = bytearray(whole)
        changed[offset] ^= 1 << offset % 8
        path.write_bytes(changed)

        assert any(str(path) in str(problem.where) for problem in problems_if_any(path)), offset


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_any_changed_byte_after_the_last_member_is_found(
    place: int, change: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_shard(tmp_path_factory.mktemp("end") / "a.tar", range(2))
    content = bytearray(path.read_bytes())
    at = end_of(path) + place % (len(content) - end_of(path))
    content[at] = change
    path.write_bytes(content)

    (problem,) = problems_in(path)

    block = at // BLOCK * BLOCK
    assert str(problem.where) == str(path)
    assert f"at byte {at}," in problem.message or f"header at byte {block} " in problem.message


def test_a_header_of_zeros_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", range(4))
    content = bytearray(path.read_bytes())
    start = headers(path)[4]
    content[start : start + BLOCK] = bytes(BLOCK)
    path.write_bytes(content)

    (problem,) = problems_in(path)

    at = start + BLOCK
    assert problem.message == (
        f"shard `a.tar` is damaged: there is data at byte {at}, after the block of zeros that ends it"
    )
    assert dict(problem.notes) == {"status": "the last intact member is `0001.txt`"}


def test_a_truncated_member_is_reported_with_its_position(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample(0), **sample(1, txt=b"x" * 2000)})
    start = headers(path)[-1]
    os.truncate(path, start + 3 * BLOCK)

    (problem,) = problems_in(path)

    assert problem.message == (
        f"shard `a.tar` is truncated: member `0001.txt` starts at byte {start}, "
        "and only 1,024 of its 2,000 bytes are present"
    )


def test_a_second_archive_in_a_shard_is_found(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", range(2))
    path.write_bytes(path.read_bytes() + path.read_bytes())

    assert "after the block of zeros that ends it" in problems_in(path)[0].message


def test_a_file_that_is_not_a_tar_archive_is_reported_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"not an archive" * 200)
    (tmp_path / "packed.tar").write_bytes(gzip.compress(os.urandom(4000)))
    (tmp_path / "short.tar").write_bytes(b"x")
    (tmp_path / "folder.tar").mkdir()
    paths = [tmp_path / f"{name}.tar" for name in ("text", "packed", "short", "folder")]

    assert {Path(str(p.where)).stem: p.message for p in problems_in(*paths)} == {
        "text": "shard `text.tar` is not a tar archive",
        "packed": "shard `packed.tar` is not a tar archive: "
        "it is compressed with gzip, so that no sample can be read by its position",
        "short": "shard `short.tar` is truncated at byte 1: "
        "the two blocks of zeros at the end of an archive are missing",
        "folder": "shard `folder.tar` is not a file: shards are tar files",
    }


def test_links_and_devices_are_reported_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    kinds = {"hard link": tarfile.LNKTYPE, "symbolic link": tarfile.SYMTYPE, "character device": tarfile.CHRTYPE}
    kinds |= {"block device": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE, "entry of type `V`": b"V"}
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate(kinds.values()):
            header = tarfile.TarInfo(f"{number}.png")
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)

    problems = problems_in(path)

    assert {problem.code for problem in problems} == {"unsupported-member"}
    assert {problem.subject: problem.message for problem in problems} == {
        f"{number}.png": f"member `{number}.png` at byte {BLOCK * number} is a {kind}, not a file"
        for number, kind in enumerate(kinds)
    }


def test_a_repeated_member_is_reported_with_both_positions(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in [("a.png", png(0)), ("a.txt", b"one"), ("a.txt", b"two"), ("a.PNG", png(1))]:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    places = headers(path)

    assert [(str(p.where), p.code, p.subject, p.message) for p in problems_in(path)] == [
        (
            str(path),
            "duplicate-name",
            "a.txt",
            f"sample `a` has two members `txt`: at byte {places[1]} and at byte {places[2]}",
        ),
        (
            str(path),
            "duplicate-name",
            "a.PNG",
            f"sample `a` has two members `png`: at byte {places[0]} and at byte {places[3]}",
        ),
    ]


def test_a_sample_without_image_or_caption_is_reported_by_shard_and_key(tmp_path: Path) -> None:
    members = {**sample(0), "b.txt": b"no image", "c.png": png(1), "c.cls": b"7", "d.json": b"{}"}
    path = write_tar(tmp_path / "a.tar", members)

    problems = problems_in(path)

    images = "expected a member `jpg` or `jpeg` or `png` or `webp`"
    hint = "set `damaged_at_most: 0.75` to leave out these samples (3 of 4)"
    assert [(p.code, p.subject, p.message, dict(p.notes)) for p in problems] == [
        ("missing-image", "b", f"sample `b` has no image: {images}", {"received": "members txt", "hint": hint}),
        (
            "missing-caption",
            "c",
            "sample `c` has no caption: expected a member `txt`",
            {"received": "members cls, png"},
        ),
        ("missing-image", "d", f"sample `d` has no image: {images}", {"received": "members json"}),
        ("missing-caption", "d", "sample `d` has no caption: expected a member `txt`", {"received": "members json"}),
    ]
    assert {str(p.where) for p in problems} == {str(path)}


def test_of_a_thousand_problems_of_one_kind_the_first_are_reported_and_the_others_counted(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{number}.png": b"" for number in range(1000)})

    *first, last = problems_in(path)

    assert [problem.subject for problem in first] == [str(number) for number in range(8)]
    assert (str(last.where), last.message) == (str(path), "992 more samples have no caption in shard `a.tar`")
    assert {problem.code for problem in (*first, last)} == {"missing-caption"}


def test_problems_of_all_shards_are_in_one_report(tmp_path: Path) -> None:
    cut, twice = write_shard(tmp_path / "cut.tar", range(2)), write_shard(tmp_path / "twice.tar", [2])
    os.truncate(cut, 1024)

    problems = problems_in(cut, tmp_path / "no", twice, twice)

    assert [(problem.code, problem.message.split(" at ")[0]) for problem in problems] == [
        ("duplicate-name", "shard `twice.tar` is named twice"),
        ("missing-file", "shard `no` does not exist"),
        ("damaged-shard", "shard `cut.tar` is truncated"),
    ]
    assert [str(problem.where) for problem in problems] == [str(twice), str(tmp_path / "no"), str(cut)]


def test_the_first_missing_shards_of_a_range_are_reported_and_the_others_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "03.tar", [0])

    few = problems_in(f"{tmp_path}/{{00..04}}.tar")
    many = problems_in(f"{tmp_path}/{{00..99}}.tar")

    assert [str(p.where) for p in few] == [f"{tmp_path}/{name}.tar" for name in ("00", "01", "02", "04")]
    assert [p.message for p in few[:2]] == ["shard `00.tar` does not exist", "shard `01.tar` does not exist"]
    assert [p.message for p in many[-2:]] == ["shard `24.tar` does not exist", "75 more shards do not exist"]
    assert {p.code for p in (*few, *many)} == {"missing-file"}
    assert len(many) == 25


def test_wildcards_that_match_nothing_and_shards_without_samples_are_reported(tmp_path: Path) -> None:
    (nothing,) = problems_in(tmp_path / "*.tar")
    (empty,) = problems_in(write_tar(tmp_path / "a.tar", {"README": b"x"}))

    assert (nothing.code, nothing.message) == ("missing-file", f"no file matches `{tmp_path}/*.tar`")
    assert (empty.code, empty.message) == ("empty-dataset", "the shards contain no samples")
    assert dict(empty.notes) == {
        "hint": "set `image_key` and `caption_key` to the extensions of the members "
        "(now jpg, jpeg, png, webp for images, txt for captions)"
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_without_permission_to_read_is_reported(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", [0])
    path.chmod(0)

    assert problems_in(path)[0].message == "shard `a.tar` cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shards": []}, "`shards` is empty"),
        ({"shards": ""}, "`shards` has an empty entry"),
        (
            {"shards": ["a.tar", "s3://bucket/a.tar"]},
            "names a `s3:` URL, but only files, http:, https: and hf: are supported",
        ),
        ({"shards": "pipe:curl x"}, "names a pipe, but a recipe cannot run commands"),
        ({"shards": "https://me:secret@example.org/a.tar"}, "contains a URL with a user name or password"),
        ({"shards": "https:///a.tar"}, "which has no host"),
        ({"shards": "a", "token_env": ""}, "token_env"),
        ({"shards": "a", "label_key": "cls"}, "write the extension of a JSON member"),
        (
            {"shards": "a", "label_key": "json", "caption_key": "a..b"},
            "with `label_key`, write a key",
        ),
        ({"shards": "a", "fetch_limit": 0.0}, "fetch_limit"),
        ({"shards": "{0..999999999}.tar"}, "expands to 1,000,000,000 shards, more than 100,000"),
        ({"shards": "{0..999}/{0..999}.tar"}, "expands to 1,000,000 shards, more than 100,000"),
        ({"shards": "a", "image_key": "jpg;;png"}, "`image_key` is `jpg;;png`: write extensions"),
        ({"shards": "a", "image_key": ""}, "write extensions, such as `jpg;png`"),
        ({"shards": "a", "caption_key": ""}, "write one extension, such as `txt` or `json.caption`"),
        ({"shards": "a", "caption_key": "txt;caption"}, "write one extension"),
        ({"shards": "a", "caption_key": "json"}, "add a key of the JSON, such as `json.caption`"),
        ({"shards": "a", "image_size": 0}, "image_size"),
        ({"shards": "a", "flip": -0.1}, "flip"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WebDataset(**options)  # type: ignore[arg-type]


@given(at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=64))
def test_a_shard_with_any_bytes_is_opened_or_refused_by_name(
    at: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = small(tmp_path_factory.mktemp("junk") / "a.tar", tarfile.PAX_FORMAT)
    whole = path.read_bytes()
    start = int(at * len(whole))
    path.write_bytes(whole[:start] + junk + whole[start + len(junk) :])

    problems = problems_if_any(path)

    assert all(str(problem.where).startswith(str(path)) for problem in problems)


def problems_if_any(path: Path) -> tuple[Problem, ...]:
    try:
        open_shards(path)
    except DataError as error:
        return error.problems
    return ()
