"""A checkpoint that somebody made up, digests and all: nothing is executed, nothing is written, nothing escapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.errors import RunError
from fluxflow_registry.state import checkpoints, disk, store

SPECIAL = st.sampled_from(
    ["$tensor", "$tuple", "$pairs", "../../x", "/etc/passwd", "a\0b", "net", "w", "model", "meta"]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SPECIAL | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SPECIAL | st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
HEADERS = st.binary(max_size=80) | st.dictionaries(SPECIAL, JUNK, max_size=3).map(
    lambda header: len(text := json.dumps(header).encode()).to_bytes(8, "little") + text + bytes(16)
)


def sealed(root: Path, files: dict[str, bytes]) -> Path:
    """A checkpoint of these files with every digest right."""
    folder = root / checkpoints.name_of(1, "vae", "due")
    for path in [*folder.glob("*"), folder] if folder.exists() else []:
        path.rmdir() if path.is_dir() else path.unlink()
    folder.mkdir()
    entries = {name: disk.write(folder / name, [content]) for name, content in files.items()}
    manifest: dict[str, Any] = {"format": checkpoints.FORMAT, "not_finite": [], "files": entries}
    manifest["digest"] = checkpoints.own_digest(manifest)
    disk.write(folder / checkpoints.MANIFEST, [json.dumps(manifest).encode()])
    return folder


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder in a folder of its own, so that what is written beside it is seen, and nothing else."""
    with TemporaryDirectory() as outer:
        made = Path(outer) / "checkpoints"
        made.mkdir()
        yield made


def refusal(folder: Path) -> str | None:
    """What is said against a checkpoint; None where it loads."""
    try:
        store.load(folder)
    except RunError as error:
        return str(error)
    return None


def loads_or_is_refused(root: Path, files: dict[str, bytes]) -> None:
    def outside() -> set[Path]:
        return {path for path in root.parent.rglob("*") if root not in path.parents and path != root}

    before = outside()
    folder = sealed(root, files)
    reported = refusal(folder)
    assert reported is None or str(folder) in reported
    assert outside() == before


@given(JUNK)
def test_any_json_for_a_state_loads_or_is_refused(junk: Any) -> None:
    with a_folder() as folder:
        loads_or_is_refused(folder, {checkpoints.STATE: json.dumps(junk).encode()})


@given(st.dictionaries(SPECIAL, st.dictionaries(SPECIAL, JUNK, max_size=2), max_size=2), HEADERS)
def test_any_sections_and_any_tensors_file_load_or_are_refused(state: Any, header: Any) -> None:
    files = {
        checkpoints.STATE: json.dumps(
            {"meta": {}, "state": {**state, "model": {"net": {"w": {"$tensor": "w"}}}}}
        ).encode(),
        "model.net.safetensors": header,
    }
    with a_folder() as folder:
        loads_or_is_refused(folder, files)


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    loads_or_is_refused(tmp_path, {checkpoints.STATE: b"[" * 100_000})
    loads_or_is_refused(
        tmp_path, {checkpoints.STATE: b'{"meta":{},"state":{"a":{"b":' + b"[" * 900 + b"]" * 900 + b"}}}"}
    )
    (tmp_path / "000000001-vae" / checkpoints.MANIFEST).write_bytes(b"[" * 100_000)

    assert "cannot read the manifest" in str(refusal(tmp_path / "000000001-vae"))


def test_a_section_that_leads_out_of_the_folder_reads_no_file_there(tmp_path: Path) -> None:
    (tmp_path / "x.y.safetensors").write_bytes(b"not to be read")
    state = {"../x": {"y": {"w": {"$tensor": "w"}}}}

    folder = sealed(tmp_path, {checkpoints.STATE: json.dumps({"meta": {}, "state": state}).encode()})

    assert "KeyError: 'w'" in str(refusal(folder))
