"""Shards for tests: written by tarfile and by webdataset, opened, and what is said of them."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_data.shards.dataset import ShardSource, WebDataset
from fluxflow_registry import DataError, Problem

SIZE = 8


@cache
def png(number: int, size: int = SIZE) -> bytes:
    """A picture of noise of its own."""
    stream = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(number).randbytes(size * size * 3)).save(stream, "PNG")
    return stream.getvalue()


def sample(number: int, key: str | None = None, **parts: bytes) -> dict[str, bytes]:
    """The members of one sample by name."""
    key = f"{number:04}" if key is None else key
    content = {"png": png(number), "txt": f"picture {number}".encode()} | parts
    return {f"{key}.{extension}": data for extension, data in content.items()}


def written(path: Path, members: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar file with these members."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def shard(path: Path, numbers: Iterable[int]) -> Path:
    """A tar file with the samples of these numbers."""
    return written(path, {name: data for number in numbers for name, data in sample(number).items()})


def with_json(number: int, caption: Any) -> dict[str, bytes]:
    """A sample whose caption stands in a JSON."""
    return {f"{number:04}.png": png(number), f"{number:04}.json": json.dumps(caption).encode()}


def opened(*paths: Path | str, **options: Any) -> ShardSource:
    """The source of these shards."""
    return WebDataset(shards=[str(path) for path in paths], **({"image_size": SIZE} | options))()


def problems(*paths: Path | str, **options: Any) -> tuple[Problem, ...]:
    """Everything that is wrong with these shards."""
    with pytest.raises(DataError) as caught:
        opened(*paths, **options)
    return caught.value.problems


def captions(source: ShardSource) -> list[str]:
    """The captions of all samples in order."""
    found = source.batch(range(len(source)), 0)["caption"]
    assert isinstance(found, list)
    return found
