"""Checkpoints of every format version that ever was still load, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.store import pack, write_tensors

from .golden.write import HERE, META, state

FORMATS = sorted(HERE.glob("format_*"))


def same(one: Any, other: Any) -> bool:
    """Whether two states are the same, bit by bit."""
    (plain, tensors), (plain_too, tensors_too) = pack(one, "one"), pack(other, "other")
    return (
        repr(plain) == repr(plain_too)
        and list(tensors) == list(tensors_too)
        and all(
            a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(tensors.values(), tensors_too.values(), strict=True)
        )
    )


def test_there_is_a_golden_checkpoint_of_every_format() -> None:
    assert [path.name for path in FORMATS] == [f"format_{number}" for number in range(1, checkpoints.FORMAT + 1)]


@pytest.mark.parametrize("root", FORMATS, ids=lambda path: path.name)
def test_a_golden_checkpoint_loads_to_the_last_bit(root: Path) -> None:
    (found,) = checkpoints.listing(root)

    loaded, meta = store.load(found.folder)

    assert same(loaded, state())
    assert meta == META
    assert (found.run_batch, found.step, found.kind) == (8, "vae_gan", "due")


def test_this_version_still_writes_the_format_that_it_says(tmp_path: Path) -> None:
    (golden,) = checkpoints.listing(HERE / f"format_{checkpoints.FORMAT}")

    folder = store.save(tmp_path, golden.folder.name, state(), META)

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in golden.folder.iterdir()}


def test_tensors_are_written_as_other_readers_of_safetensors_expect(tmp_path: Path) -> None:
    tensors = state()["model"]["net"]
    write_tensors(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs")

    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
