"""Indexes of shards kept from one run to the next, so that headers are hopped once."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from fluxflow_registry import Problem

from .index import ShardIndex, Wanted, build

#: A file is this line, the digest of all that follows, a line of JSON, and the arrays.
MAGIC = b"fluxflow shard index 1\n"
DIGEST = 32


def folder() -> Path:
    """Where indexes are kept: under `FLUXFLOW_HOME`, else in the user's cache."""
    home = os.environ.get("FLUXFLOW_HOME")
    if home:
        return Path(home) / "index"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "fluxflow" / "index"


def indexed(path: str, wanted: Wanted) -> tuple[ShardIndex | None, list[Problem]]:
    """The index of a shard: the kept one where the shard's length and time are still the same, else a new one.

    With a shard in which anything is wrong there is no index, but every problem. A kept index that is
    damaged, or of another version, is as good as none. Where nothing can be written, nothing is kept.
    """
    place = folder() / _name(path, wanted)
    kept = _read(place)
    if kept is not None and kept.state == _state(path):
        return kept, []
    problems: list[Problem] = []
    made = build(path, wanted, problems)
    if made is not None:
        with suppress(OSError):
            _write(place, made)
    return made, problems


def _name(path: str, wanted: Wanted) -> str:
    asked = json.dumps([os.path.abspath(path), wanted.images, wanted.caption])
    return blake2b(asked.encode(), digest_size=16).hexdigest() + ".index"


def _state(path: str) -> tuple[int, int] | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_size, now.st_mtime_ns


def _digest(content: bytes | memoryview) -> bytes:
    return blake2b(content, digest_size=DIGEST).digest()


def _read(place: Path) -> ShardIndex | None:
    """The index in a file, its arrays as views of what was read; None unless the file is whole."""
    try:
        content = place.read_bytes()
    except OSError:
        return None
    start = len(MAGIC) + DIGEST
    body = memoryview(content)[start:]
    if not content.startswith(MAGIC) or content[len(MAGIC) : start] != _digest(body):
        return None
    line = content.index(b"\n", start) + 1
    facts = json.loads(content[start:line])
    samples = facts["samples"]
    return ShardIndex(
        length=facts["length"],
        mtime=facts["mtime"],
        digest=facts["digest"],
        places=np.frombuffer(content, np.dtype("<i8"), 4 * samples, line).reshape(samples, 4),
        ends=np.frombuffer(content, np.dtype("<i8"), samples, line + 32 * samples),
        keys=np.frombuffer(content, np.uint8, -1, line + 40 * samples),
    )


def _write(place: Path, index: ShardIndex) -> None:
    """Beside its place, synced, and renamed: another process sees the old file or the new one."""
    facts = {"length": index.length, "mtime": index.mtime, "digest": index.digest, "samples": len(index)}
    arrays = (index.places.astype("<i8"), index.ends.astype("<i8"), index.keys)
    body = b"".join([json.dumps(facts).encode(), b"\n", *(array.tobytes() for array in arrays)])
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, working = tempfile.mkstemp(prefix=".", suffix=".writing", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(MAGIC + _digest(body) + body)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(working, place)
    except BaseException:
        with suppress(OSError):
            os.unlink(working)
        raise
