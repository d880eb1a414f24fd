"""Whatever happens to the files of a checkpoint is found, and the file is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_registry.errors import RunError
from fluxflow_registry.state import checkpoints, store

#: Mutations that CI and the slow proof try.
SOME, MANY = 400, 5000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and beside it the next one of the same run."""
    root = tmp_path_factory.mktemp("whole")
    for batch in (10, 5):
        torch.manual_seed(batch)
        state: dict[str, dict[str, Any]] = {
            "model": {"net": {"w": torch.randn(8, 8)}, "other": {"w": torch.randn(5)}},
            "update": {"vae": {"optimizer": {"state": {0: {"step": torch.tensor(float(batch))}}, "lr": 0.1 * batch}}},
        }
        folder = store.save(root, checkpoints.name_of(batch, "vae", "due"), state, {"position": {"step_batch": batch}})
    return folder


def mutations_are_found(whole: Path, copy: Path, seeds: range) -> None:
    for seed in seeds:
        draw = random.Random(seed)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        file = draw.choice(sorted(copy.iterdir()))
        what = mutate(file, whole, draw)

        with pytest.raises(RunError) as caught:
            store.load(copy)

        assert str(copy) in str(caught.value), (seed, what)
        # A manifest that is another one is as good as damage to every file that it tells of.
        assert file.name in str(caught.value) or file.name == checkpoints.MANIFEST, (seed, what)


def test_some_mutations_of_a_checkpoint_are_all_found_and_the_file_is_named(whole: Path, tmp_path: Path) -> None:
    mutations_are_found(whole, tmp_path / whole.name, range(SOME))


@pytest.mark.slow
def test_many_mutations_of_a_checkpoint_are_all_found_and_the_file_is_named(whole: Path, tmp_path: Path) -> None:
    mutations_are_found(whole, tmp_path / whole.name, range(SOME, SOME + MANY))


def mutate(file: Path, whole: Path, draw: random.Random) -> str:
    """Damage a file in one of the ways in which disks and people do; gives the word for it."""
    data = bytearray(file.read_bytes())
    place = draw.randrange(len(data))
    kind = draw.choice(["flip", "cut", "zero", "swap", "other", "gone", "more", "edit"])
    if kind == "edit" and file.suffix != ".json":
        kind = "flip"
    if kind == "gone":
        file.unlink()
        return kind
    if kind == "flip":
        data[place] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "zero":
        block = slice(place, place + draw.randrange(1, 64))
        empty = not any(data[block])
        data[block] = bytes(b ^ 0xFF for b in data[block]) if empty else bytes(len(data[block]))
    elif kind == "more":
        data += b" " if file.suffix == ".safetensors" else b"x"
    elif kind == "swap":
        data[:] = draw.choice([p.read_bytes() for p in sorted(file.parent.iterdir()) if p.read_bytes() != data])
    elif kind == "other":
        data[:] = (whole.parent / checkpoints.name_of(10, "vae", "due") / file.name).read_bytes()
    elif kind == "edit":
        data[:] = edited(bytes(data), draw)
    file.write_bytes(bytes(data))
    return kind


def edited(content: bytes, draw: random.Random) -> bytes:
    """JSON with one number or text in it changed, and its form kept."""
    tree = json.loads(content)
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(value, (dict, list)):
                waiting.append(value)
            else:
                places.append((part, key))
    part, key = draw.choice(places)
    part[key] = part[key] + "0" if isinstance(part[key], str) else (part[key] or 0) + 1
    return json.dumps(tree, indent=1).encode()
