"""Sizes of the images in a shard by their headers, kept from one run to the next so that headers are read once."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ..cache import DIGEST_SIZE, Cache
from .index import IMAGE, IMAGE_SIZE, ShardIndex
from .reader import Reader, Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of an image that are read first; one with a longer header (EXIF with a thumbnail) is read whole.
HEADER = 1 << 14

CACHE = Cache("index", ".sizes", b"fluxflow shard sizes 1\n")


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
    from ..images.loading import pillow_warnings, size_in_header

    reader, sizes = Reader(), []
    with pillow_warnings():
        for offset, size in index.spans[:, [IMAGE, IMAGE_SIZE]].tolist():
            header = reader.read(Span(path, offset, min(size, HEADER), index.state))
            shown = size_in_header(header)
            if shown is None and size > HEADER:
                shown = size_in_header(reader.read(Span(path, offset, size, index.state)))
            sizes.append(shown or (0, 0))
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)
