"""Sizes of images, and the part of an image that a size shows."""

from __future__ import annotations

from attrs import frozen


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
