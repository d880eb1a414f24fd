"""Sizes of images: the part of an image that a size shows, and the aspect buckets that images are cropped to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@frozen
class Size:
    """A size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


def largest_crop(width: float, height: float, size: Size) -> tuple[float, float]:
    """Width and height of the largest part of an image of width x height that has the aspect of `size`."""
    if width * size.height <= height * size.width:
        return width, width * size.height / size.width
    return height * size.width / size.height, height


def bucket_sizes(side: int, multiple: int | None, max_aspect: float) -> tuple[Size, ...]:
    """The sizes of all buckets, the tallest first; without a multiple, the square alone.

    Sides are multiples of `multiple`. Each width has the greatest height with w h <= side^2, so that no batch costs
    more than one of squares, and max(w, h) / min(w, h) <= `max_aspect`.
    """
    if multiple is None:
        return (Size(side, side),)
    end = int(side * max_aspect**0.5) + 1  # w h <= side^2 and w <= max_aspect h
    wide = [Size(width, side * side // width // multiple * multiple) for width in range(side, end, multiple)]
    wide = [size for size in wide if size.height and size.width <= max_aspect * size.height]
    # Of several widths with one height, the widest holds the most pixels.
    widest = {size.height: size for size in wide}.values()
    tall = [Size(size.height, size.width) for size in widest if size.width != size.height]
    return tuple(sorted({*widest, *tall}, key=lambda size: size.width / size.height))


def nearest_buckets(stored: NDArray[np.int64], buckets: Sequence[Size]) -> NDArray[np.int64]:
    """The number of the bucket nearest in aspect to each image: min |log(w/h) - log(W/H)|.

    `stored` is int64 [n, 2], width and height. An image of unknown size, 0, belongs to the squarest bucket.
    """
    import numpy as np

    known = np.where((stored > 0).all(axis=1, keepdims=True), stored, 1)
    aspects = np.log(known[:, 0] / known[:, 1])
    centers = np.log([bucket.width / bucket.height for bucket in buckets])
    numbers: NDArray[np.int64] = np.searchsorted((centers[1:] + centers[:-1]) / 2, aspects)
    return numbers


def reduced_size(size: Size, side: int, image_size: int, multiple: int | None) -> Size:
    """The size of a copy at the resolution `side` of an image of `size`, a bucket at the resolution `image_size`."""
    step = multiple or 1

    def scaled(length: int) -> int:
        return max(step, round(length * side / image_size / step) * step)

    return Size(scaled(size.width), scaled(size.height))
