"""Indexes of shards kept from one run to the next, so that headers are hopped once."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxflow_registry import Problem

from .image_sizes import measure
from .index import ShardIndex, Wanted, build, hopped
from .remote.requests import Ahead, RemoteFile, is_remote, told

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A file is one of these lines, the digest of all that follows, a line of JSON, and the arrays.
INDEX = b"fluxflow shard index 1\n"
SIZES = b"fluxflow shard sizes 1\n"
SURVEY = b"fluxflow folder survey 1\n"
DIGEST = 32


def folder(what: str = "index") -> Path:
    """Where indexes, or shards, are kept: under `FLUXFLOW_HOME`, else in the user's cache."""
    home = os.environ.get("FLUXFLOW_HOME")
    if home:
        return Path(home) / what
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "fluxflow" / what


def indexed(path: str, wanted: Wanted, file: RemoteFile | None = None) -> tuple[ShardIndex | None, list[Problem]]:
    """The index of a shard: the kept one where the shard's length and time are still the same, else a new one.

    `file` is what a server says of one that lies there.

    With a shard in which anything is wrong there is no index, but every problem. A kept index that is
    damaged, or of another version, is as good as none. Where nothing can be written, nothing is kept.
    """
    place = folder() / _name(path, wanted)
    kept = _kept(place)
    if kept is not None and kept.state == (file.state if file is not None else _state(path)):
        return kept, []
    problems: list[Problem] = []
    if file is None:
        made = build(path, wanted, problems)
    else:
        made = hopped(Ahead(file).read, file.state, told(path), wanted, problems)
        made = None if problems else made
    if made is not None:
        with suppress(OSError):
            _keep(place, made)
    return made, problems


def measured(path: str, index: ShardIndex) -> NDArray[np.int64]:
    """Width and height of each picture of a shard by its header, 0 of what is none: int64 [samples, 2].

    They are kept beside the shard's index, so that pictures' headers are read once.
    """
    asked = json.dumps([os.path.abspath(path), index.digest, *index.state, _digest(index.places.tobytes()).hex()])
    place = folder() / (blake2b(asked.encode(), digest_size=16).hexdigest() + ".sizes")
    kept = read(place, SIZES)
    if kept is not None:
        _, content, start = kept
        return np.frombuffer(content, np.dtype("<i8"), -1, start).reshape(-1, 2)
    made = measure(path, index)
    with suppress(OSError):
        write(place, SIZES, {"samples": len(index)}, [made.astype("<i8")])
    return made


def _name(path: str, wanted: Wanted) -> str:
    asked = json.dumps([path if is_remote(path) else os.path.abspath(path), wanted.images, wanted.caption])
    return blake2b(asked.encode(), digest_size=16).hexdigest() + ".index"


def _state(path: str) -> tuple[int, int] | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_size, now.st_mtime_ns


def _digest(content: bytes | memoryview) -> bytes:
    return blake2b(content, digest_size=DIGEST).digest()


def _kept(place: Path) -> ShardIndex | None:
    """The index in a file, its arrays as views of what was read; None unless the file is whole."""
    found = read(place, INDEX)
    if found is None:
        return None
    facts, content, line = found
    samples = facts["samples"]
    return ShardIndex(
        length=facts["length"],
        mtime=facts["mtime"],
        digest=facts["digest"],
        places=np.frombuffer(content, np.dtype("<i8"), 4 * samples, line).reshape(samples, 4),
        ends=np.frombuffer(content, np.dtype("<i8"), samples, line + 32 * samples),
        keys=np.frombuffer(content, np.uint8, -1, line + 40 * samples),
    )


def read(place: Path, magic: bytes) -> tuple[dict[str, Any], bytes, int] | None:
    """The facts in a file, its bytes, and where in them the arrays begin; None unless the file is whole."""
    try:
        content = place.read_bytes()
    except OSError:
        return None
    start = len(magic) + DIGEST
    body = memoryview(content)[start:]
    if not content.startswith(magic) or content[len(magic) : start] != _digest(body):
        return None
    line = content.index(b"\n", start) + 1
    return json.loads(content[start:line]), content, line


def _keep(place: Path, index: ShardIndex) -> None:
    facts = {"length": index.length, "mtime": index.mtime, "digest": index.digest, "samples": len(index)}
    write(place, INDEX, facts, [index.places.astype("<i8"), index.ends.astype("<i8"), index.keys])


def write(place: Path, magic: bytes, facts: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> None:
    """Beside its place, synced, and renamed: another process sees the old file or the new one."""
    body = b"".join([json.dumps(facts).encode(), b"\n", *(array.tobytes() for array in arrays)])
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, working = tempfile.mkstemp(prefix=".", suffix=".writing", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(magic + _digest(body) + body)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(working, place)
    except BaseException:
        with suppress(OSError):
            os.unlink(working)
        raise
