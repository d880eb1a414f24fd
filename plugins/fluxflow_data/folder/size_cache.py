"""Sizes of a folder's sound pictures kept from one run to the next, so that each is looked at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxflow_registry import Problem

from ..images.loading import surveyed
from ..shards.index_cache import SURVEY, folder, read, write

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: In a folder with fewer pictures all are looked at each time: that takes seconds at most.
WORTH_KEEPING = 1000


def survey(root: Path, paths: Sequence[Path], whole: bool) -> list[tuple[int, int] | Problem]:
    """Width and height of each picture, or why it cannot be read; `whole`: down to its last pixel.

    A picture that was sound is not looked at again while its name, length and time stay the same. The
    damaged ones are, each time. Where nothing can be written, nothing is kept.
    """
    if len(paths) < WORTH_KEEPING:
        return surveyed(paths, whole)
    asked = json.dumps([os.path.abspath(root), whole])
    place = folder("survey") / (blake2b(os.fsencode(asked), digest_size=16).hexdigest() + ".survey")
    keys = np.array([_key(root, path) for path in paths], dtype=np.int64)
    found = _known(place, keys)
    new: list[int] = np.flatnonzero((found == 0).any(axis=1) | (keys == 0)).tolist()
    told = dict(zip(new, surveyed([paths[number] for number in new], whole), strict=True))
    for number, each in told.items():
        found[number] = (0, 0) if isinstance(each, Problem) else each
    if new:
        sound = (found > 0).all(axis=1) & (keys != 0)
        order = np.argsort(keys[sound], kind="stable")
        with suppress(OSError):
            arrays = [keys[sound][order].astype("<i8"), found[sound][order].astype("<i8")]
            write(place, SURVEY, {"pictures": int(sound.sum())}, arrays)
    sizes: list[tuple[int, int]] = [(width, height) for width, height in found.tolist()]
    return [told.get(number, size) for number, size in enumerate(sizes)]


def _known(place: Path, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Width and height of each picture by its key, 0 of those that are not known: int64 [n, 2]."""
    found = np.zeros((len(keys), 2), dtype=np.int64)
    kept = read(place, SURVEY)
    if kept is None or not kept[0]["pictures"]:
        return found
    facts, content, start = kept
    count = facts["pictures"]
    known = np.frombuffer(content, np.dtype("<i8"), count, start)
    sizes = np.frombuffer(content, np.dtype("<i8"), 2 * count, start + 8 * count).reshape(count, 2)
    places = np.minimum(np.searchsorted(known, keys), count - 1)
    same = known[places] == keys
    found[same] = sizes[places[same]]
    return found


def _key(root: Path, path: Path) -> int:
    """A number that stands for a file as it is now; 0 for one that is not there."""
    try:
        now = os.stat(path)
    except OSError:
        return 0
    name = os.fsencode(path)[len(os.fsencode(root)) :]
    told = b"%s\0%d\0%d" % (name, now.st_size, now.st_mtime_ns)
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "big", signed=True) or 1
