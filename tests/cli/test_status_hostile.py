"""`--status` on folders that hold anything but what a run has written: a message, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fluxflow_registry.cli.status import status, status_data, status_text
from fluxflow_registry.errors import FluxflowError
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import checkpoints, disk

from .test_status import at, run_folder, save

#: Keys that the files of a run have, so that junk stands where it is looked for.
KEYS = [
    *("recipe", "finished", "name", "steps", "command", "directory", "epochs", "batches", "step", "epoch", "batch"),
    *("step_batch", "run_batch", "time", "meta", "position", "results", "damaged", "digest", "format", "files"),
    *("not_finite", "plugins", "source", "state.json", "model.x.safetensors"),
]
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([*KEYS, "\0\x1b[2J\ud800", "../x", 10**400, -1, 2**63]),
)
JUNK = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=6),
)
FILE = st.binary() | JUNK
COUNT = st.integers(0, 10**16) | PLAIN
#: Files that are almost what they should be.
RUN = st.fixed_dictionaries({"recipe": st.text()}, optional=dict.fromkeys(("steps", "name", "command"), JUNK))
POSITION = st.fixed_dictionaries(dict.fromkeys(("step", "epoch", "batch", "step_batch", "run_batch", "time"), COUNT))
META = st.fixed_dictionaries({}, optional={"position": POSITION, "results": JUNK, "damaged": JUNK})
STATE = st.fixed_dictionaries({"meta": META | JUNK})

DEEP = b"[" * 100_000


def write(path: Path, content: Any) -> None:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    run=RUN | FILE,
    position=POSITION | FILE,
    environment=st.fixed_dictionaries({"plugins": JUNK}) | FILE,
    state=STATE | FILE,
    manifest=FILE,
    signed=st.booleans(),
)
@example(run={"recipe": ""}, position=DEEP, environment=DEEP, state=DEEP, manifest=DEEP, signed=False)
@example(run={"recipe": ""}, position=DEEP, environment=DEEP, state=DEEP, manifest=None, signed=True)
@example(run=DEEP, position=DEEP, environment=DEEP, state=DEEP, manifest=[], signed=True)
def test_no_content_of_a_folder_is_more_than_a_message(
    tmp_path: Path, run: Any, position: Any, environment: Any, state: Any, manifest: Any, signed: bool
) -> None:
    folder = tmp_path / "small-x"
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = save(run_folder(tmp_path, folder.name), at(9))
    write(folder / "run.json", run)
    write(folder / "position.json", position)
    write(folder / "environment.json", environment)
    write(checkpoint / "state.json", state)
    if signed:  # whole, so that what is in it is believed
        files = {"state.json": disk.digest(checkpoint / "state.json")}
        manifest = {"format": 1, "not_finite": manifest if not isinstance(manifest, bytes) else None, "files": files}
        manifest["digest"] = checkpoints.own_digest(manifest)
    write(checkpoint / "manifest.json", manifest)

    for asked in (folder, tmp_path):
        try:
            found = status(str(asked), Registry())
        except FluxflowError as error:
            reported = str(error)
        else:
            reported = status_text(found)
            json.dumps(status_data(found), allow_nan=False)
        assert all(character.isprintable() or character == "\n" for character in reported)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
@example(name="a\n\x1b[2Jb")
@example(name="..x*[")
def test_no_name_of_a_folder_steers_the_terminal(tmp_path: Path, name: str) -> None:
    root = tmp_path / "runs"
    shutil.rmtree(root, ignore_errors=True)
    run_folder(root, "small-" + name)

    for asked in (root / ("small-" + name), root):
        reported = status_text(status(str(asked), Registry()))
        assert all(character.isprintable() or character == "\n" for character in reported)
