"""The index of a shard: where image and caption of each sample are, and what others lack, from the headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from attrs import frozen

from fluxflow_registry import Problem, open_regular

from ..cache import Cache
from .paths import is_remote, shard_problem, unsigned
from .remote import ReadAhead, RemoteFile
from .tar import Member, Read, TarError, members, read_at

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

#: The size of a caption that does not exist.
NO_CAPTION = -1

#: The members of one sample by extension.
Parts = dict[str, Member]

CACHE = Cache("index", ".index", b"fluxflow shard index 1\n")


@frozen
class SampleMembers:
    """Which members make a sample, by extension: the first of `images` that it has, and `caption`."""

    images: tuple[str, ...]
    caption: str
    #: Whether a sample needs no caption.
    uncaptioned: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What identifies the choice: as it was before samples could lack captions, unless they may."""
        return (self.images, self.caption, *(["uncaptioned"] if self.uncaptioned else []))

    def part(self, extension: str) -> str | None:
        """The wanted extension in which a longer one ends: `png` in `5.png`, the longest of several."""
        ends = [each for each in (*self.images, self.caption) if extension.endswith(f".{each}")]
        return max(ends, key=len, default=None)


class Flaw(NamedTuple):
    """Why a sample cannot be used: `detail` are its members, or the whole message about the member `subject`."""

    key: str
    code: str
    subject: str
    detail: str

    def problem(self, wanted: SampleMembers, name: str) -> Problem:
        """The flaw as the problem of a sample in the shard `name`."""
        if self.code not in ("missing-image", "missing-caption"):
            return Problem(self.detail, name, code=self.code, subject=self.subject)
        part, choices = ("caption", [wanted.caption]) if self.code == "missing-caption" else ("image", wanted.images)
        message = f"sample `{self.key}` has no {part}: expected a member `{'` or `'.join(choices)}`"
        return Problem(message, name, [("received", f"members {self.detail}")], code=self.code, subject=self.subject)


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
    #: What is wrong with the other samples; a sample may have several.
    flaws: tuple[Flaw, ...] = ()

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
        with open_regular(Path(path)) as file:
            before = _state(file.fileno())
            index = index_shard(partial(read_at, file.fileno()), before, name, wanted)
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
    flaws: list[Flaw] = []
    try:
        for member in members(read, length, digest.update):
            _add_member(member, samples, flaws)
    except TarError as error:
        return [*report(flaws, wanted, name), shard_problem(name, str(error), "damaged-shard", error.notes)]
    rows = _rows(_with_dots(samples, wanted), wanted, flaws)
    encoded = [key.encode("utf-8", "surrogateescape") for key in rows]
    return ShardIndex(
        length=length,
        mtime=version,
        digest=digest.hexdigest(),
        spans=np.array(list(rows.values()), dtype=np.int64).reshape(-1, 4),
        ends=np.cumsum([len(key) for key in encoded], dtype=np.int64),
        keys=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        flaws=tuple(flaws),
    )


def _add_member(member: Member, samples: dict[str, Parts], flaws: list[Flaw]) -> None:
    """Add a member to the sample with its key; a member without key or extension belongs to no sample."""
    if member.kind == "folder":
        return
    # Split at the first dot of the base name: `a/b.0.JPG` is `a/b` and `0.jpg`.
    folder, slash, base = member.name.rpartition("/")
    stem, _, extension = base.partition(".")
    key, extension = f"{folder}{slash}{stem}", extension.lower()
    if member.kind != "file":
        message = f"member `{member.name}` at byte {member.header} is a {member.kind}, not a file"
        flaws.append(Flaw(key, "unsupported-member", member.name, message))
    elif stem and extension:
        first = samples.setdefault(key, {}).setdefault(extension, member)
        if first is not member:
            places = f"at byte {first.header} and at byte {member.header}"
            message = f"sample `{key}` has two members `{extension}`: {places}"
            flaws.append(Flaw(key, "duplicate-name", member.name, message))


def _with_dots(samples: Mapping[str, Parts], wanted: SampleMembers) -> dict[str, Parts]:
    """The samples, some of whose keys have dots: `a.1.jpg` and `a.1.txt` are `a.1` without an `a.jpg` or `a.txt`."""
    known = {*wanted.images, wanted.caption}
    if all(known & parts.keys() for parts in samples.values()):
        return dict(samples)
    found: dict[str, Parts] = {}
    for key, parts in samples.items():
        for extension, member in parts.items():
            part = None if known & parts.keys() else wanted.part(extension)
            whole = key if part is None else member.name[: -len(part) - 1]
            found.setdefault(whole, {})[part or extension] = member
    return dict(sorted(found.items(), key=lambda item: min(member.header for member in item[1].values())))


def _rows(samples: Mapping[str, Parts], wanted: SampleMembers, flaws: list[Flaw]) -> dict[str, list[int]]:
    """A row of `spans` for each sample that has what is wanted, by key; adds to `flaws` what the others lack."""
    rows: dict[str, list[int]] = {}
    flawed = {flaw.key for flaw in flaws}
    for key, parts in samples.items():
        image = next((parts[extension] for extension in wanted.images if extension in parts), None)
        caption = parts.get(wanted.caption)
        received = ", ".join(sorted(parts))
        if image is None:
            flaws.append(Flaw(key, "missing-image", key, received))
        if caption is None and not wanted.uncaptioned:
            flaws.append(Flaw(key, "missing-caption", key, received))
        elif image is not None and key not in flawed:
            rows[key] = [image.offset, image.size, *((caption.offset, caption.size) if caption else (0, NO_CAPTION))]
    return rows


def report(flaws: Sequence[Flaw], wanted: SampleMembers, name: str) -> Iterator[Problem]:
    """The first few problems of each kind in a shard, and how many more there are."""
    counts: Counter[str] = Counter()
    for flaw in flaws:
        counts[flaw.code] += 1
        if counts[flaw.code] <= REPORTED:
            yield flaw.problem(wanted, name)
    shard = os.path.basename(name)
    for code, count in counts.items():
        if count > REPORTED:
            yield Problem(f"{count - REPORTED:,} more {SEVERAL[code]} in shard `{shard}`", name, code=code)


def indexed(path: str, name: str, wanted: SampleMembers, file: RemoteFile | None = None) -> ShardIndex | list[Problem]:
    """The index of a shard, or whatever is wrong in it: the kept one while the shard's length and time are the same.

    `file` describes a shard that is read from a server; `name` is the shard's path or URL in problems.
    """
    kept_at = CACHE.path(unsigned(path) if is_remote(path) else os.path.abspath(path), *wanted.key)
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
        facts |= {"flaws": index.flaws} if index.flaws else {}
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
        flaws=tuple(Flaw(*flaw) for flaw in facts.get("flaws", ())),
    )
