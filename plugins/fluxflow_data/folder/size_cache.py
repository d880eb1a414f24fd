"""Sizes of a folder's intact images, kept from one run to the next so that each image is checked once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxflow_registry import Problem

from ..cache import Cache
from ..images import ImageName, measure_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A folder with fewer images is checked completely each time, which takes seconds at most.
WORTH_KEEPING = 1000

CACHE = Cache("survey", ".survey", b"fluxflow folder survey 1\n")


def image_sizes(
    root: Path, paths: Sequence[Path], name: Callable[[Path], ImageName], verify: bool
) -> list[tuple[int, int] | Problem]:
    """Width and height of each image, or why it cannot be read; `verify`: every pixel is decoded.

    An intact image is not read again while its name, length and time stay the same. A damaged one is, each time.
    """
    if len(paths) < WORTH_KEEPING:
        return measure_images(paths, name, verify)
    path = CACHE.path(os.path.abspath(root), verify)
    states = np.array([_state(root, image) for image in paths], dtype=np.int64)
    sizes = _cached(path, states)
    new: list[int] = np.flatnonzero((sizes == 0).any(axis=1) | (states == 0)).tolist()
    measured = dict(zip(new, measure_images([paths[number] for number in new], name, verify), strict=True))
    for number, size in measured.items():
        sizes[number] = (0, 0) if isinstance(size, Problem) else size
    if new:
        intact = (sizes > 0).all(axis=1) & (states != 0)
        order = np.argsort(states[intact], kind="stable")
        arrays = [states[intact][order].astype("<i8"), sizes[intact][order].astype("<i8")]
        CACHE.write(path, {"pictures": int(intact.sum())}, arrays)
    known: list[tuple[int, int]] = [(width, height) for width, height in sizes.tolist()]
    return [measured.get(number, size) for number, size in enumerate(known)]


def _cached(path: Path | None, states: NDArray[np.int64]) -> NDArray[np.int64]:
    """Width and height of each image by its state, 0 if unknown: int64 [n, 2]."""
    sizes = np.zeros((len(states), 2), dtype=np.int64)
    kept = CACHE.read(path)
    if kept is None or not kept[0]["pictures"]:
        return sizes
    facts, arrays = kept
    count = facts["pictures"]
    known = np.frombuffer(arrays, np.dtype("<i8"), count)
    known_sizes = np.frombuffer(arrays, np.dtype("<i8"), 2 * count, 8 * count).reshape(count, 2)
    at = np.minimum(np.searchsorted(known, states), count - 1)
    same = known[at] == states
    sizes[same] = known_sizes[at[same]]
    return sizes


def _state(root: Path, path: Path) -> int:
    """A hash of a file's name, length and time; 0 if it does not exist."""
    try:
        now = os.stat(path)
    except OSError:
        return 0
    name = os.fsencode(path)[len(os.fsencode(root)) :]
    state = b"%s\0%d\0%d" % (name, now.st_size, now.st_mtime_ns)
    return int.from_bytes(blake2b(state, digest_size=8).digest(), "big", signed=True) or 1
