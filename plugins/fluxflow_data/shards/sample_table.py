"""All shards of a dataset as one long table of samples, with the sizes of their images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import chain
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, frozen

from fluxflow_registry import DataError, Problem

from ..cache import DIGEST_SIZE, Cache
from .index import (
    CAPTION,
    CAPTION_SIZE,
    IMAGE,
    IMAGE_SIZE,
    NO_CAPTION,
    SEVERAL,
    Flaw,
    SampleMembers,
    ShardIndex,
    indexed,
    report,
)
from .parallel import in_parallel
from .paths import is_remote, public
from .reader import Reader, Span
from .remote import Downloads, ManyBytesError, probe
from .requests import UnreachableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of an image that are read first; one with a longer header (EXIF with a thumbnail) is read whole.
HEADER = 1 << 14

CACHE = Cache("index", ".sizes", b"fluxflow shard sizes 1\n")

#: Shards that are indexed at the same time: indexing computes little, and mostly waits for the disk.
SHARDS_AT_ONCE = 8

#: The same for shards on a server.
REMOTE_SHARDS_AT_ONCE = 32


def image_sizes(path: str, index: ShardIndex) -> NDArray[np.int64]:
    """Width and height of each image, upright; 0 if it is not an image: int64 [samples, 2]."""
    spans = blake2b(index.spans.tobytes(), digest_size=DIGEST_SIZE).hexdigest()
    kept_at = CACHE.path(os.path.abspath(path), index.digest, *index.state, spans)
    kept = CACHE.read(kept_at)
    if kept is not None:
        return np.frombuffer(kept[1], np.dtype("<i8")).reshape(-1, 2)
    sizes = measure(path, index)
    CACHE.write(kept_at, {"samples": len(index)}, [sizes.astype("<i8")])
    return sizes


def measure(path: str, index: ShardIndex) -> NDArray[np.int64]:
    """Width and height of each image from its header, not from the cache."""
    from ..images import pillow_warnings, size_in_header

    reader, sizes = Reader(), []
    with pillow_warnings():
        for offset, size in index.spans[:, [IMAGE, IMAGE_SIZE]].tolist():
            header = reader.read(Span(path, offset, min(size, HEADER), index.state))
            shown = size_in_header(header)
            if shown is None and size > HEADER:
                shown = size_in_header(reader.read(Span(path, offset, size, index.state)))
            sizes.append(shown or (0, 0))
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


@frozen(eq=False)
class Shard:
    """A shard: its path or URL in problems, where it is read from (a copy in the cache, for one), and its index."""

    name: str
    path: str
    index: ShardIndex

    @property
    def downloaded(self) -> bool:
        """Whether it is on a server, and read from a copy here."""
        return is_remote(self.name) and not is_remote(self.path)


@frozen(eq=False)
class SampleTable:
    """Shards in order; sample i is found by its shard's first index, in a time that does not depend on i."""

    shards: Sequence[Shard]
    #: int64 [shards + 1]: the index of each shard's first sample, and the number of all.
    firsts: NDArray[np.int64]
    #: The identity of the samples: of the headers of all shards in order, and of which members are read.
    digest: str
    #: int64: the numbers of the samples that are read, in order; None: every one.
    selected: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.firsts[-1]) if self.selected is None else len(self.selected)

    def keys(self) -> Iterator[bytes]:
        """The keys of all samples in the shards as UTF-8."""
        return chain.from_iterable(shard.index.names() for shard in self.shards)

    def select(self, which: NDArray[np.bool_] | None) -> SampleTable:
        """The table with some of its samples; None: with all of them."""
        if which is None:
            return self
        selected = np.flatnonzero(which).astype(np.int64)
        digest = blake2b(self.digest.encode() + selected.astype("<i8").tobytes(), digest_size=16).hexdigest()
        return evolve(self, selected=selected, digest=digest)

    def shard_and_key(self, index: int) -> tuple[str, str]:
        """The shard and the key of a sample."""
        shard, number = self._find(index)
        return shard.name, shard.index.key(number)

    def image(self, index: int) -> Span:
        """Where the image of a sample is."""
        return self._span(index, IMAGE, IMAGE_SIZE)

    def caption(self, index: int) -> Span | None:
        """Where the caption of a sample is; None where it has none."""
        span = self._span(index, CAPTION, CAPTION_SIZE)
        return None if span.size == NO_CAPTION else span

    def has_captions(self) -> bool:
        """Whether any sample has a caption with a byte."""
        sizes = np.concatenate([shard.index.spans[:, CAPTION_SIZE] for shard in self.shards])
        return bool(((sizes if self.selected is None else sizes[self.selected]) > 0).any())

    def flawed(self) -> Iterator[tuple[bytes, Flaw, str]]:
        """The samples that cannot be used: the key as UTF-8, the first flaw, and the shard's name."""
        for shard in self.shards:
            first: dict[str, Flaw] = {}
            for flaw in shard.index.flaws:
                first.setdefault(flaw.key, flaw)
            yield from ((key.encode("utf-8", "surrogateescape"), flaw, shard.name) for key, flaw in first.items())

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each image by its header, 0 if it is not an image: int64 [samples, 2]."""
        sizes = np.concatenate(
            in_parallel(lambda each: image_sizes(each.path, each.index), self.shards, SHARDS_AT_ONCE)
        )
        return sizes if self.selected is None else sizes[self.selected]

    def _span(self, index: int, offset: int, size: int) -> Span:
        shard, number = self._find(index)
        row = shard.index.spans[number]
        return Span(shard.path, int(row[offset]), int(row[size]), shard.index.state)

    def _find(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} does not exist: the dataset has {len(self)}")
        index = index if self.selected is None else int(self.selected[index])
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return self.shards[shard], index - int(self.firsts[shard])


def open_shards(
    paths: Sequence[str], wanted: SampleMembers, downloads: Downloads, damaged_at_most: float, problems: list[Problem]
) -> SampleTable | None:
    """The samples of all shards; None where there is any problem, after adding all to `problems`.

    Samples without image or caption are no problem as long as their share is at most `damaged_at_most`.
    """
    most = REMOTE_SHARDS_AT_ONCE if any(map(is_remote, paths)) else SHARDS_AT_ONCE
    opened = in_parallel(partial(_open, wanted=wanted, downloads=downloads), paths, most)
    shards = [shard for shard in opened if isinstance(shard, Shard)]
    indexes = [shard.index for shard in shards]
    flawed = sum(len({flaw.key for flaw in index.flaws}) for index in indexes)
    intact = sum(map(len, indexes))
    rejected = len(shards) < len(opened) or not intact or flawed > damaged_at_most * (intact + flawed)
    found: list[Problem] = []
    for shard in opened if rejected else ():
        found += report(shard.index.flaws, wanted, shard.name) if isinstance(shard, Shard) else shard
    if flawed and rejected:
        _add_hint(found, wanted, indexes, intact, flawed)
    problems += found
    if not problems and not intact:
        expected = f"{', '.join(wanted.images)} for images, {wanted.caption} for captions"
        hint = f"set `image_key` and `caption_key` to the extensions of the members (now {expected})"
        where = public(paths[0]) if paths else None
        problems.append(Problem("the shards contain no samples", where, (("hint", hint),), code="empty-dataset"))
    if problems:
        return None
    firsts = np.concatenate([[0], np.cumsum([len(index) for index in indexes])]).astype(np.int64)
    choices = "\0".join((*wanted.images, "", wanted.caption))
    choices += "\0uncaptioned" if wanted.uncaptioned else ""
    content = choices + "".join(index.digest for index in indexes)
    return SampleTable(tuple(shards), firsts, blake2b(content.encode(), digest_size=16).hexdigest())


def _add_hint(
    problems: list[Problem], wanted: SampleMembers, indexes: Sequence[ShardIndex], intact: int, flawed: int
) -> None:
    """Add to the first problem with a sample how to train without it, or, where all lack captions, how to name them."""
    at = next(at for at, problem in enumerate(problems) if problem.code in SEVERAL)
    if intact:
        share = ceil(100 * flawed / (intact + flawed)) / 100
        hint = f"set `damaged_at_most: {share}` to leave out these samples ({flawed:,} of {intact + flawed:,})"
    elif all(flaw.code == "missing-caption" for index in indexes for flaw in index.flaws):
        hint = "set `caption_key` to the extension of the captions, or `uncaptioned: true` if no captions are needed"
    else:
        return
    problems[at] = evolve(problems[at], notes=(*problems[at].notes, ("hint", hint)))


def _open(path: str, wanted: SampleMembers, downloads: Downloads) -> Shard | list[Problem]:
    """A shard, or what is wrong with it."""
    name, remote, content = public(path), None, ""
    try:
        if is_remote(path):
            downloads.require_reachable(path)
            remote = probe(path, downloads.token_env)
            if downloads.always or not remote.ranged:
                file = downloads.download(remote)
                path, content, remote = str(file), "" if remote.version else file.stem, None
        try:
            index = indexed(path, name, wanted, remote)
        except ManyBytesError:
            assert remote is not None
            path = str(downloads.download(remote))
            index = indexed(path, name, wanted)
    except DataError as error:
        if isinstance(error, UnreachableError):
            downloads.record_unreachable(name)
        return list(error.problems)
    if not isinstance(index, ShardIndex):
        return index
    # Without a version, only the content of members shows that they have changed.
    return Shard(name, path, evolve(index, digest=index.digest + content))
