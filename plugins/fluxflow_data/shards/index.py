"""What lies where in a shard: a row of numbers for each sample, built from the headers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from fluxflow_registry import Problem

from ..folder.files import shown
from .tar import Broken, Member, Read, members

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How many problems of one kind are told of one shard.
TOLD = 8

#: Columns of `ShardIndex.places`.
IMAGE, IMAGE_SIZE, CAPTION, CAPTION_SIZE = range(4)


@frozen
class Wanted:
    """Which members make a sample: extensions of the picture, the first that is there counts, and of the caption."""

    images: tuple[str, ...]
    caption: str


@frozen(eq=False)
class ShardIndex:
    """The samples of one shard, a file or one on a server.

    `digest` is the shard's identity: BLAKE2b over all its headers and its length, thus over names, sizes
    and times of all members. The data themselves are not in it, since that would cost a read of the
    whole corpus; what a decoder meets in damaged data is told when the sample is read.
    """

    length: int
    mtime: int
    digest: str
    #: int64 [n, 4]: offset and size of the picture, offset and size of the caption.
    places: NDArray[np.int64]
    #: int64 [n]: where each key ends in `keys`.
    ends: NDArray[np.int64]
    #: uint8: the keys as UTF-8, one behind the other.
    keys: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def state(self) -> tuple[int, int]:
        """Length and time of the file that this is the index of."""
        return self.length, self.mtime

    def key(self, number: int) -> str:
        """The key of a sample; bytes that are no UTF-8 are surrogates."""
        start = int(self.ends[number - 1]) if number else 0
        return self.keys[start : int(self.ends[number])].tobytes().decode("utf-8", "surrogateescape")

    def names(self) -> Iterator[bytes]:
        """The keys of all samples as UTF-8."""
        content, start = self.keys.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end]
            start = end


#: The members of one sample by extension.
Parts = dict[str, Member]


def build(path: str, wanted: Wanted, problems: list[Problem]) -> ShardIndex | None:
    """Hop through the shard at `path`; after adding to `problems` whatever is wrong in it, None."""
    found: list[Problem] = []
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        problems.append(Problem(f"cannot be read: {error.strerror}", shown(path)))
        return None
    try:
        before = _state(descriptor)
        index = hopped(partial(os.pread, descriptor), before, shown(path), wanted, found)
        if index is not None and _state(descriptor) != before:
            found.append(Problem("has changed while it was read; is it still being written?", shown(path)))
    except OSError as error:
        found.append(Problem(f"cannot be read: {error.strerror}", shown(path)))
        index = None
    finally:
        os.close(descriptor)
    problems += found
    return None if found else index


def _state(descriptor: int) -> tuple[int, int]:
    now = os.fstat(descriptor)
    return now.st_size, now.st_mtime_ns


def hopped(read: Read, state: tuple[int, int], name: str, wanted: Wanted, problems: list[Problem]) -> ShardIndex | None:
    """The index of the shard of that `state` (length and version), whose bytes `read(size, offset)` gives.

    Adds to `problems` whatever is wrong in it; `name` is how messages call it.
    """
    length, version = state
    if length == 0:
        problems.append(Problem("is empty: 0 bytes", name))
        return None
    digest = blake2b(str(length).encode(), digest_size=16)
    samples: dict[str, Parts] = {}
    refused = _Told(name, problems)
    try:
        for member in members(read, length, digest.update):
            _enter(member, samples, refused)
    except Broken as error:
        problems.append(Problem(str(error), name, error.notes))
        return None
    finally:
        refused.close()
    rows = _rows(samples, wanted, name, problems)
    encoded = [key.encode("utf-8", "surrogateescape") for key in samples]
    return ShardIndex(
        length=length,
        mtime=version,
        digest=digest.hexdigest(),
        places=np.array(rows, dtype=np.int64).reshape(-1, 4),
        ends=np.cumsum([len(key) for key in encoded], dtype=np.int64),
        keys=np.frombuffer(b"".join(encoded), dtype=np.uint8),
    )


def _enter(member: Member, samples: dict[str, Parts], refused: _Told) -> None:
    """Put a member to the sample whose key its name begins with; what has no key or no extension is no part of one."""
    if member.kind == "folder":
        return
    if member.kind != "file":
        message = f"is a {member.kind}, at byte {member.header}; only files are read"
        refused.tell(f"are not files either ({member.kind})", member.name, message)
        return
    split = key_of(member.name)
    if split is None:
        return
    key, extension = split
    first = samples.setdefault(key, {}).setdefault(extension, member)
    if first is not member:
        message = f"has two members `{extension}`: at byte {first.header} and at byte {member.header}"
        refused.tell("have two members of one kind", key, message)


def _rows(samples: dict[str, Parts], wanted: Wanted, name: str, problems: list[Problem]) -> list[tuple[int, ...]]:
    """A row of places for each sample that has both picture and caption; the others are told."""
    rows: list[tuple[int, ...]] = []
    lacking = _Told(name, problems)
    for key, parts in samples.items():
        image = next((parts[extension] for extension in wanted.images if extension in parts), None)
        caption = parts.get(wanted.caption)
        if image is not None and caption is not None:
            rows.append((image.offset, image.size, caption.offset, caption.size))
        has = ", ".join(sorted(parts))
        if image is None:
            lacking.tell("have no picture", key, "has no picture", looked_for=", ".join(wanted.images), has=has)
        if caption is None:
            lacking.tell("have no caption", key, "has no caption", looked_for=wanted.caption, has=has)
    lacking.close()
    return rows


class _Told:
    """Problems of one shard's samples: the first few of a kind each by name, the others counted."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.name = name
        self.problems = problems
        self.counts: dict[str, int] = {}

    def tell(self, kind: str, key: str, message: str, **notes: str) -> None:
        """Add a problem with the sample `key`; `kind` says in the plural what is wrong."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= TOLD:
            told = tuple((label.replace("_", " "), shown(text)) for label, text in notes.items())
            self.problems.append(Problem(message, f"{self.name}:{shown(key)}", told))

    def close(self) -> None:
        """Say how many more there are."""
        for kind, count in self.counts.items():
            if count > TOLD:
                self.problems.append(Problem(f"{count - TOLD:,} more {kind}", self.name))


def key_of(name: str) -> tuple[str, str] | None:
    """A member's key and extension, split at the first dot of its last part: `a/b.0.JPG` is `a/b` and `0.jpg`."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and extension else None


def identity(shards: Sequence[ShardIndex], *choices: str) -> str:
    """One digest of all shards in their order, and of what is read from them."""
    digest = blake2b("\0".join(choices).encode(), digest_size=16)
    for shard in shards:
        digest.update(shard.digest.encode())
    return digest.hexdigest()
