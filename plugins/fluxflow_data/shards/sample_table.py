"""All shards of a dataset as one long table of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, frozen

from fluxflow_registry import DataError, Problem

from ..folder.files import shown
from .index import CAPTION, CAPTION_SIZE, IMAGE, IMAGE_SIZE, ShardIndex, Wanted, identity
from .index_cache import folder, indexed, measured
from .reader import Place
from .remote.download import GIB, fetched
from .remote.requests import RemoteFile, is_remote, probe, told

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Shards that are indexed at the same time: hopping computes little and waits much where a disk is far away.
AT_ONCE = 8

#: The same of shards on a server.
AT_ONCE_THERE = 32


@frozen(eq=False)
class Corpus:
    """Shards in order; sample i is found by its shard's first index, in a time that does not depend on i."""

    #: Where each is read from, and what it is called.
    paths: Sequence[str]
    names: Sequence[str]
    shards: Sequence[ShardIndex]
    #: int64 [shards + 1]: the index of each shard's first sample, and the number of all.
    firsts: NDArray[np.int64]
    digest: str
    #: int64: which of all samples there are, in order; None: every one.
    chosen: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.firsts[-1]) if self.chosen is None else len(self.chosen)

    def keys(self) -> Iterator[bytes]:
        """The keys of all samples in the shards as UTF-8."""
        return chain.from_iterable(shard.names() for shard in self.shards)

    def only(self, which: NDArray[np.bool_] | None) -> Corpus:
        """The corpus with some of the samples that are in its shards; None: with all of them."""
        if which is None:
            return self
        found = np.flatnonzero(which).astype(np.int64)
        digest = blake2b(self.digest.encode() + found.astype("<i8").tobytes(), digest_size=16).hexdigest()
        return evolve(self, chosen=found, digest=digest)

    @property
    def fetched(self) -> int:
        """How many shards lie on a server and are read from a copy here."""
        return sum(is_remote(name) and not is_remote(path) for path, name in zip(self.paths, self.names, strict=True))

    def name(self, index: int) -> str:
        """Shard and key of a sample."""
        shard, number = self._find(index)
        return f"{self.names[shard]}:{shown(self.shards[shard].key(number))}"

    def picture(self, index: int) -> Place:
        """Where the picture of a sample lies."""
        return self._place(index, IMAGE, IMAGE_SIZE)

    def caption(self, index: int) -> Place:
        """Where the caption of a sample lies."""
        return self._place(index, CAPTION, CAPTION_SIZE)

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each picture by its header, 0 of what is none: int64 [samples, 2]."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sizes = np.concatenate(list(pool.map(measured, self.paths, self.shards)))
        return sizes if self.chosen is None else sizes[self.chosen]

    def _place(self, index: int, offset: int, size: int) -> Place:
        shard, number = self._find(index)
        lies = self.shards[shard]
        return self.paths[shard], int(lies.places[number, offset]), int(lies.places[number, size]), lies.state

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {index}; there are {len(self)}")
        index = index if self.chosen is None else int(self.chosen[index])
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return shard, index - int(self.firsts[shard])


@frozen
class Fetch:
    """How shards on a server are come by: where their token is, whether they are fetched whole, how many bytes."""

    token_env: str | None = None
    whole: bool = False
    limit: float = 64.0


def opened(paths: Sequence[str], wanted: Wanted, problems: list[Problem], fetch: Fetch | None = None) -> Corpus | None:
    """The corpus of the shards that are there; None where there is any problem, all of which are added."""
    fetch = fetch or Fetch()
    rooms = _Rooms(fetch)
    found: list[tuple[str, ShardIndex]] = []
    with ThreadPoolExecutor(AT_ONCE_THERE if any(map(is_remote, paths)) else AT_ONCE) as pool:
        for place, shard, wrong in pool.map(partial(_opened, wanted=wanted, rooms=rooms), paths):
            problems += wrong
            if shard is not None:
                found.append((place, shard))
    whole = [shard for _, shard in found]
    if not problems and not any(map(len, whole)):
        notes = (("looked for", f"pictures: {', '.join(wanted.images)}\ncaptions: {wanted.caption}"),)
        problems.append(Problem("there are no samples in these shards", named(paths[0]) if paths else None, notes))
    if problems:
        return None
    firsts = np.concatenate([[0], np.cumsum([len(shard) for shard in whole])]).astype(np.int64)
    digest = identity(whole, *wanted.images, "", wanted.caption)
    names = tuple(map(named, paths))
    return Corpus(tuple(place for place, _ in found), names, tuple(whole), firsts, digest)


def named(path: str) -> str:
    """What messages call a shard."""
    return told(path) if is_remote(path) else shown(path)


class _Rooms:
    """How many bytes may still be fetched, for all shards together."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        self.lock = Lock()
        self.left = int(fetch.limit * GIB)

    def fetched(self, file: RemoteFile) -> str:
        """The whole of a shard as a file; one after the other, as they share the line anyway."""
        with self.lock:
            place = fetched(file, folder("shards"), self.left)
            self.left -= place.stat().st_size
        return str(place)


def _opened(path: str, wanted: Wanted, rooms: _Rooms) -> tuple[str, ShardIndex | None, list[Problem]]:
    """Where a shard is read from, and its index."""
    try:
        if not is_remote(path):
            return path, *indexed(path, wanted)
        file = probe(path, rooms.fetch.token_env)
        if file.ranged and not rooms.fetch.whole:
            return path, *indexed(path, wanted, file)
        place = rooms.fetched(file)
    except DataError as error:
        return path, None, list(error.problems)
    index, wrong = indexed(place, wanted)
    return place, index, [evolve(each, where=str(each.where or "").replace(shown(place), told(path))) for each in wrong]
