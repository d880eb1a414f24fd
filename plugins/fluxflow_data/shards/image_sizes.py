"""The sizes of the pictures in a shard, from their headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .index import IMAGE, IMAGE_SIZE, ShardIndex
from .reader import Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of a picture that are read first; those whose header is longer (EXIF with a thumbnail) are read whole.
HEADER = 1 << 14


def measure(path: str, index: ShardIndex) -> NDArray[np.int64]:
    """Width and height of each picture, upright; 0 of what is no picture: int64 [samples, 2]."""
    from ..images.loading import sizes_of

    reader = Reader()
    places: list[list[int]] = index.places[:, [IMAGE, IMAGE_SIZE]].tolist()

    def read(number: int, most: int | None = None) -> bytes:
        offset, size = places[number]
        return reader.read(path, offset, size if most is None else min(size, most), index.state)

    found = sizes_of((read(number, HEADER) for number in range(len(index))), read)
    return np.array(found, dtype=np.int64).reshape(-1, 2)
