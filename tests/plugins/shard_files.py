"""Shards for tests: written with webdataset, or with tarfile where a test needs its own members or form; and opened."""

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
import webdataset
from PIL import Image

from fluxflow_data.shards.dataset import ShardSource, WebDataset
from fluxflow_registry import DataError, Problem

SIZE = 8


@cache
def png(number: int, size: int = SIZE) -> bytes:
    """An image of noise, another one for each number."""
    stream = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(number).randbytes(size * size * 3)).save(stream, "PNG")
    return stream.getvalue()


def sample(number: int, key: str | None = None, **parts: bytes) -> dict[str, bytes]:
    """The members of one sample by name."""
    key = f"{number:04}" if key is None else key
    content = {"png": png(number), "txt": f"image {number}".encode()} | parts
    return {f"{key}.{extension}": data for extension, data in content.items()}


def write_tar(path: Path, members: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar file with these members."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def write_shard(path: Path, numbers: Iterable[int]) -> Path:
    """Write the samples of these numbers as webdataset does."""
    with webdataset.TarWriter(str(path), mtime=0) as writer:
        for number in numbers:
            writer.write({"__key__": f"{number:04}", "png": png(number), "txt": f"image {number}"})
    return path


def with_json(number: int, caption: Any) -> dict[str, bytes]:
    """A sample with its caption in a JSON member."""
    return {f"{number:04}.png": png(number), f"{number:04}.json": json.dumps(caption).encode()}


def open_shards(*paths: Path | str, **options: Any) -> ShardSource:
    """The source of these shards."""
    return WebDataset(shards=[str(path) for path in paths], **({"image_size": SIZE} | options))()


def problems_in(*paths: Path | str, **options: Any) -> tuple[Problem, ...]:
    """Everything that is wrong with these shards."""
    with pytest.raises(DataError) as caught:
        open_shards(*paths, **options)
    return caught.value.problems


def captions_of(source: ShardSource) -> list[str]:
    """The captions of all samples in order."""
    captions = source.batch(range(len(source)), 0)["caption"]
    assert isinstance(captions, list)
    return captions
