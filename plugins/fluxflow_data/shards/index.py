"""The index of a shard: where the image and the caption of each sample are, found from the headers alone and kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from fluxflow_registry import Problem

from ..cache import Cache
from .paths import is_remote, shard_problem
from .remote import ReadAhead, RemoteFile
from .tar import Member, Read, TarError, members

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: So many problems of one kind are reported of one shard; the others are counted.
REPORTED = 8

#: What several problems of one kind have in common, by their code.
SEVERAL = {
    "unsupported-member": "members are not files",
    "duplicate-name": "members repeat the key and extension of another",
    "missing-image": "samples have no image",
    "missing-caption": "samples have no caption",
}

#: Columns of `ShardIndex.spans`.
IMAGE, IMAGE_SIZE, CAPTION, CAPTION_SIZE = range(4)

#: The members of one sample by extension.
Parts = dict[str, Member]

CACHE = Cache("index", ".index", b"fluxflow shard index 1\n")


@frozen
class SampleMembers:
    """Which members make a sample, by extension: the first of `images` that it has, and `caption`."""

    images: tuple[str, ...]
    caption: str


@frozen(eq=False)
class ShardIndex:
    """The samples of one shard.

    `digest` is the shard's identity: BLAKE2b over all its headers and its length, thus over names, sizes and times of
    all members. The data is not included, since that would cost a read of the whole shard; damaged data is reported
    when a sample is decoded.
    """

    length: int
    mtime: int
    digest: str
    #: int64 [n, 4]: offset and size of the image, offset and size of the caption.
    spans: NDArray[np.int64]
    #: int64 [n]: where each key ends in `keys`.
    ends: NDArray[np.int64]
    #: uint8: the keys as UTF-8, without separators.
    keys: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def state(self) -> tuple[int, int]:
        """Length and time of the file that this index belongs to."""
        return self.length, self.mtime

    def key(self, number: int) -> str:
        """The key of a sample; bytes that are not UTF-8 are surrogates."""
        start = int(self.ends[number - 1]) if number else 0
        return self.keys[start : int(self.ends[number])].tobytes().decode("utf-8", "surrogateescape")

    def names(self) -> Iterator[bytes]:
        """The keys of all samples as UTF-8."""
        content, start = self.keys.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end]
            start = end


def index_file(path: str, name: str, wanted: SampleMembers) -> ShardIndex | list[Problem]:
    """The index of the file at `path`, or whatever is wrong in it; `name` is the shard's path or URL in problems."""
    try:
        with open(path, "rb", buffering=0) as file:
            before = _state(file.fileno())
            index = index_shard(partial(os.pread, file.fileno()), before, name, wanted)
            changed = _state(file.fileno()) != before
    except OSError as error:
        return [shard_problem(name, f"cannot be read: {error.strerror}", "unreadable-file")]
    if changed and isinstance(index, ShardIndex):
        return [shard_problem(name, "changed while it was indexed: wait until it is complete", "changed-file")]
    return index


def _state(file: str | int) -> tuple[int, int]:
    """Length and time of a file, by its path or descriptor."""
    now = os.stat(file)
    return now.st_size, now.st_mtime_ns


def index_shard(read: Read, state: tuple[int, int], name: str, wanted: SampleMembers) -> ShardIndex | list[Problem]:
    """The index of a shard of that `state` (length and version), or whatever is wrong in it.

    `read(size, offset)` reads its bytes; `name` is its path or URL in problems.
    """
    length, version = state
    if length == 0:
        return [shard_problem(name, "is empty (0 bytes)", "damaged-shard")]
    digest = blake2b(str(length).encode(), digest_size=16)
    samples: dict[str, Parts] = {}
    problems: list[Problem] = []
    try:
        for member in members(read, length, digest.update):
            _add_member(member, samples, name, problems)
    except TarError as error:
        return [*_first_of_each_kind(problems, name), shard_problem(name, str(error), "damaged-shard", error.notes)]
    rows = _rows(samples, wanted, name, problems)
    if problems:
        return list(_first_of_each_kind(problems, name))
    encoded = [key.encode("utf-8", "surrogateescape") for key in samples]
    return ShardIndex(
        length=length,
        mtime=version,
        digest=digest.hexdigest(),
        spans=np.array(rows, dtype=np.int64).reshape(-1, 4),
        ends=np.cumsum([len(key) for key in encoded], dtype=np.int64),
        keys=np.frombuffer(b"".join(encoded), dtype=np.uint8),
    )


def _add_member(member: Member, samples: dict[str, Parts], name: str, problems: list[Problem]) -> None:
    """Add a member to the sample with its key; a member without key or extension belongs to no sample."""
    if member.kind == "folder":
        return
    if member.kind != "file":
        message = f"member `{member.name}` at byte {member.header} is a {member.kind}, not a file"
        problems.append(Problem(message, name, code="unsupported-member", subject=member.name))
        return
    # Split at the first dot of the base name: `a/b.0.JPG` is `a/b` and `0.jpg`.
    folder, slash, base = member.name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return
    key, extension = f"{folder}{slash}{stem}", extension.lower()
    first = samples.setdefault(key, {}).setdefault(extension, member)
    if first is not member:
        message = f"sample `{key}` has two members `{extension}`: at byte {first.header} and at byte {member.header}"
        problems.append(Problem(message, name, code="duplicate-name", subject=member.name))


def _rows(samples: dict[str, Parts], wanted: SampleMembers, name: str, problems: list[Problem]) -> list[list[int]]:
    """A row of `spans` for each sample that has image and caption; adds to `problems` what the others lack."""
    rows: list[list[int]] = []
    for key, parts in samples.items():
        image = next((parts[extension] for extension in wanted.images if extension in parts), None)
        caption = parts.get(wanted.caption)
        if image is not None and caption is not None:
            rows.append([image.offset, image.size, caption.offset, caption.size])
            continue
        notes = [("received", f"members {', '.join(sorted(parts))}")]
        if image is None:
            message = f"sample `{key}` has no image: expected a member `{'` or `'.join(wanted.images)}`"
            problems.append(Problem(message, name, notes, code="missing-image", subject=key))
        if caption is None:
            message = f"sample `{key}` has no caption: expected a member `{wanted.caption}`"
            problems.append(Problem(message, name, notes, code="missing-caption", subject=key))
    return rows


def _first_of_each_kind(problems: Sequence[Problem], name: str) -> Iterator[Problem]:
    """The first few problems of each kind in a shard, and how many more there are."""
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.code] += 1
        if counts[problem.code] <= REPORTED:
            yield problem
    shard = os.path.basename(name)
    for code, count in counts.items():
        if count > REPORTED:
            yield Problem(f"{count - REPORTED:,} more {SEVERAL[code]} in shard `{shard}`", name, code=code)


def indexed(path: str, name: str, wanted: SampleMembers, file: RemoteFile | None = None) -> ShardIndex | list[Problem]:
    """The index of a shard, or whatever is wrong in it: the kept one while the shard's length and time are the same.

    `file` describes a shard that is read from a server; `name` is the shard's path or URL in problems.
    """
    kept_at = CACHE.path(path if is_remote(path) else os.path.abspath(path), wanted.images, wanted.caption)
    kept = _kept(kept_at)
    with suppress(OSError):  # indexing reports it
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


def _kept(path: Path | None) -> ShardIndex | None:
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
