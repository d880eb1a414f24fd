"""Files that a run reads back: checked, set aside where they are damaged, and never a reason to stop."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fluxflow_registry import append_file, read_back, read_back_lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=3),
    max_leaves=8,
)


def number(content: Any) -> int:
    """What the check of a file may look like."""
    return int(content["a"]) + len(content["b"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(content=st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(content=b"[" * 100_000)
@example(content=b'{"a": NaN, "b": ""}')
@example(content=b'{"a": 1e999, "b": ""}')
@example(content=b'{"a": ' + b"1" * 5000 + b"}")
def test_any_content_is_read_or_set_aside_with_one_message(content: bytes, tmp_path: Path) -> None:
    path, warned = tmp_path / "a.json", list[str]()
    for left in tmp_path.iterdir():
        left.unlink()
    path.write_bytes(content)

    read = read_back(path, number, warned.append)

    if read is None:
        assert warned[0].startswith("`a.json` ")
        assert warned[0].endswith("\n    quarantined as .a.json.damaged; training resumes without it")
        assert (tmp_path / ".a.json.damaged").read_bytes() == content
    else:
        assert warned == []
    assert path.exists() == (read is not None)


def test_a_file_that_is_missing_is_no_damage(tmp_path: Path) -> None:
    warned: list[str] = []

    assert read_back(tmp_path / "a.json", number, warned.append) is None
    assert read_back_lines(tmp_path / "a.jsonl", number, warned.append) == []
    assert warned == []


@pytest.mark.parametrize("read", [read_back, read_back_lines])
def test_what_is_not_a_file_is_set_aside_and_not_read(read: Any, tmp_path: Path) -> None:
    warned: list[str] = []
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")

    found = [read(tmp_path / name, number, warned.append) for name in ("pipe", "device", "folder", "loop")]

    assert not any(found)
    assert [message.split(" cannot be read: ")[0] for message in warned] == ["`pipe`", "`device`", "`folder`", "`loop`"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".device.damaged", ".folder.damaged", ".loop.damaged", ".pipe.damaged"),
    ]


GOOD = b'{"a": 1, "b": []}\n'


@pytest.mark.parametrize(
    "line", [b"\0\0\n", b"[1]\n", b"\xff\n", b"\n", b'{"a": []}\n', b'{"a": NaN, "b": ""}\n', b"[" * 99999]
)
def test_a_damaged_line_is_set_aside_with_its_file_and_the_other_lines_stay(line: bytes, tmp_path: Path) -> None:
    path, warned = tmp_path / "a.jsonl", list[str]()
    line = line.rstrip(b"\n") + b"\n"
    path.write_bytes(GOOD + line + GOOD)

    lines = read_back_lines(path, number, warned.append)

    assert lines == [(GOOD, 1), (GOOD, 1)]
    assert path.read_bytes() == GOOD + GOOD
    assert (tmp_path / ".a.jsonl.damaged").read_bytes() == GOOD + line + GOOD
    assert warned == [
        "`a.jsonl` has 1 damaged line\n    quarantined as .a.jsonl.damaged; training resumes with the other lines"
    ]


def test_a_log_that_is_a_link_is_replaced_by_a_copy(tmp_path: Path) -> None:
    path, warned = tmp_path / "a.jsonl", list[str]()
    (tmp_path / "elsewhere").write_bytes(GOOD)
    path.symlink_to("elsewhere")

    lines = read_back_lines(path, number, warned.append)
    append_file(path, GOOD)

    assert lines == [(GOOD, 1)]
    assert path.read_bytes() == GOOD + GOOD
    assert (tmp_path / "elsewhere").read_bytes() == GOOD
    assert warned == [
        "`a.jsonl` is a link\n    it is replaced by a copy of the file that it leads to, which stays unchanged"
    ]


@pytest.mark.parametrize("end", [b'{"a": 1, "b": []}', b"\0\0\0", b"[1]\n"])
def test_the_last_line_may_be_what_a_crash_has_left(end: bytes, tmp_path: Path) -> None:
    path, warned = tmp_path / "a.jsonl", list[str]()
    path.write_bytes(GOOD + end)

    lines = read_back_lines(path, number, warned.append)

    assert lines == [(GOOD, 1)]
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_bytes() == GOOD
    assert warned == []
