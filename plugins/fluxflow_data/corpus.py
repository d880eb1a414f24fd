"""All shards of a dataset as one long table of samples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from fluxflow_registry import Problem

from .cache import indexed, measured
from .files import shown
from .index import CAPTION, CAPTION_SIZE, IMAGE, IMAGE_SIZE, ShardIndex, Wanted, identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Shards that are indexed at the same time: hopping computes little and waits much where a disk is far away.
AT_ONCE = 8

#: What is read: a file, the offset and the number of bytes, and the file's length and time.
Place = tuple[str, int, int, tuple[int, int]]


@frozen(eq=False)
class Corpus:
    """Shards in order; sample i is found by its shard's first index, in a time that does not depend on i."""

    paths: Sequence[str]
    shards: Sequence[ShardIndex]
    #: int64 [shards + 1]: the index of each shard's first sample, and the number of all.
    firsts: NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def name(self, index: int) -> str:
        """Shard and key of a sample."""
        shard, number = self._find(index)
        return f"{shown(self.paths[shard])}:{shown(self.shards[shard].key(number))}"

    def picture(self, index: int) -> Place:
        """Where the picture of a sample lies."""
        return self._place(index, IMAGE, IMAGE_SIZE)

    def caption(self, index: int) -> Place:
        """Where the caption of a sample lies."""
        return self._place(index, CAPTION, CAPTION_SIZE)

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each picture by its header, 0 of what is none: int64 [samples, 2]."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return np.concatenate(list(pool.map(measured, self.paths, self.shards)))

    def _place(self, index: int, offset: int, size: int) -> Place:
        shard, number = self._find(index)
        lies = self.shards[shard]
        return self.paths[shard], int(lies.places[number, offset]), int(lies.places[number, size]), lies.state

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {index}; there are {len(self)}")
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return shard, index - int(self.firsts[shard])


def opened(paths: Sequence[str], wanted: Wanted, problems: list[Problem]) -> Corpus | None:
    """The corpus of the shards that are there; None where there is any problem, all of which are added."""
    whole: list[ShardIndex] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for shard, wrong in pool.map(partial(indexed, wanted=wanted), paths):
            problems += wrong
            if shard is not None:
                whole.append(shard)
    if not problems and not any(map(len, whole)):
        notes = (("looked for", f"pictures: {', '.join(wanted.images)}\ncaptions: {wanted.caption}"),)
        problems.append(Problem("there are no samples in these shards", shown(paths[0]) if paths else None, notes))
    if problems:
        return None
    firsts = np.concatenate([[0], np.cumsum([len(shard) for shard in whole])]).astype(np.int64)
    digest = identity(whole, *wanted.images, "", wanted.caption)
    return Corpus(tuple(paths), tuple(whole), firsts, digest)
