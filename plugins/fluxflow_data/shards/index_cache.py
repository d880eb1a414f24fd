"""Indexes of shards, kept from one run to the next so that headers are read once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fluxflow_registry import Problem

from ..cache import Cache
from .index import SampleMembers, ShardIndex, index_file, index_shard
from .names import is_remote
from .remote.file import ReadAhead, RemoteFile

CACHE = Cache("index", ".index", b"fluxflow shard index 1\n")


def indexed(path: str, name: str, wanted: SampleMembers, file: RemoteFile | None = None) -> ShardIndex | list[Problem]:
    """The index of a shard, or whatever is wrong in it: the kept one while the shard's length and time are the same.

    `file` describes a shard that is read from a server; `name` is the shard's path or URL in problems.
    """
    kept_at = CACHE.path(path if is_remote(path) else os.path.abspath(path), wanted.images, wanted.caption)
    kept = _kept(kept_at)
    if kept is not None and kept.state == (file.state if file is not None else _state(path)):
        return kept
    if file is None:
        index = index_file(path, name, wanted)
    else:
        index = index_shard(ReadAhead(file).read, file.state, name, wanted)
    if isinstance(index, ShardIndex):
        facts = {"length": index.length, "mtime": index.mtime, "digest": index.digest, "samples": len(index)}
        CACHE.write(kept_at, facts, [index.spans.astype("<i8"), index.ends.astype("<i8"), index.keys])
    return index


def _state(path: str) -> tuple[int, int] | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_size, now.st_mtime_ns


def _kept(path: Path) -> ShardIndex | None:
    """The index in a file, its arrays as views of what was read; None unless the file is intact."""
    kept = CACHE.read(path)
    if kept is None:
        return None
    facts, arrays = kept
    samples = facts["samples"]
    return ShardIndex(
        length=facts["length"],
        mtime=facts["mtime"],
        digest=facts["digest"],
        spans=np.frombuffer(arrays, np.dtype("<i8"), 4 * samples).reshape(samples, 4),
        ends=np.frombuffer(arrays, np.dtype("<i8"), samples, 32 * samples),
        keys=np.frombuffer(arrays, np.uint8, -1, 40 * samples),
    )
