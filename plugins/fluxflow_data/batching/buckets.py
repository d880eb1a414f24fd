"""Aspect buckets: the sizes that pictures are cut to, and which of them is a picture's own."""

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


def sizes(side: int, multiple: int | None, longest: float) -> tuple[Size, ...]:
    """The sizes of all buckets, the tallest first; without a multiple the square alone.

    Sides are multiples of `multiple`; for each width the greatest height is taken with w h <= side^2, so
    that no batch costs more than one of squares; and max(w, h) / min(w, h) <= `longest`.
    """
    if multiple is None:
        return (Size(side, side),)
    end = int(side * longest**0.5) + 1  # w h <= side^2 and w <= longest h
    wide = [Size(width, side * side // width // multiple * multiple) for width in range(side, end, multiple)]
    wide = [size for size in wide if size.height and size.width <= longest * size.height]
    # Of several widths with one height the widest holds the most pixels.
    widest = {size.height: size for size in wide}.values()
    tall = [Size(size.height, size.width) for size in widest if size.width != size.height]
    return tuple(sorted({*widest, *tall}, key=lambda size: size.width / size.height))


def nearest(pictures: NDArray[np.int64], buckets: Sequence[Size]) -> NDArray[np.int64]:
    """For each picture (width, height) the number of the bucket nearest in aspect: min |log(w/h) - log(W/H)|.

    A picture whose size is not known, 0, goes to the bucket nearest to the square.
    """
    import numpy as np

    known = np.where((pictures > 0).all(axis=1, keepdims=True), pictures, 1)
    aspects = np.log(known[:, 0] / known[:, 1])
    centres = np.log([bucket.width / bucket.height for bucket in buckets])
    found: NDArray[np.int64] = np.searchsorted((centres[1:] + centres[:-1]) / 2, aspects)
    return found


def covered(width: float, height: float, size: Size) -> tuple[float, float]:
    """The greatest part of a picture of width x height that has the aspect of `size`."""
    if width * size.height <= height * size.width:
        return width, width * size.height / size.width
    return height * size.width / size.height, height


def reduced(size: Size, side: int, usual: int, multiple: int | None) -> Size:
    """The size of a copy at the resolution `side` of a picture of `size`, whose own resolution is `usual`."""
    step = multiple or 1

    def scaled(length: int) -> int:
        return max(step, round(length * side / usual / step) * step)

    return Size(scaled(size.width), scaled(size.height))
