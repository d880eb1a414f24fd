"""From the bytes of a picture to 8-bit RGB of one size, whatever kind of picture it is."""

from __future__ import annotations

from io import BytesIO
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from ..batching.buckets import Size, covered

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What is read; nothing else is even tried.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

#: EXIF's tag of the orientation, and what undoes each (the other values need nothing).
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Orientations that exchange width and height.
LYING = (5, 6, 7, 8)


class Unsupported(ValueError):  # noqa: N818 - the file is sound, but there is no one way to show it
    """A picture whose pixels have no known range."""


def open_picture(content: bytes | IO[bytes]) -> Image.Image:
    """Read the first bytes of a picture; its pixels come later."""
    stream = BytesIO(content) if isinstance(content, bytes) else content
    return Image.open(stream, formats=FORMATS)


def cut(content: bytes, size: Size) -> NDArray[np.uint8]:
    """The picture resized until it covers `size`, and its centre cut out: uint8 [height, width, 3].

    The centre is cut out of the source by the resampling itself, which costs the same for any
    aspect ratio: a picture of 30000 x 1 pixels never becomes one of 30000 s x s.
    """
    picture = decode(content, max(size.width, size.height))
    width, height = covered(picture.width, picture.height, size)
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    box = (left, top, left + width, top + height)
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.LANCZOS, box=box))


def square(content: bytes, size: int) -> NDArray[np.uint8]:
    """The picture's short side resized to `size` and its centre cut out: uint8 [size, size, 3]."""
    return cut(content, Size(size, size))


def size_in_header(stream: bytes | IO[bytes]) -> tuple[int, int]:
    """Width and height of a picture as it is shown, upright, from its first bytes: no pixel is decoded."""
    with open_picture(stream) as picture:
        # Pillow decodes a whole PNG to look for EXIF behind its pixels.
        known = picture.format != "PNG" or "exif" in picture.info
        stored = _stored(picture)
        return stored[::-1] if known and _orientation(picture) in LYING else stored


def decode(content: bytes, size: int) -> Image.Image:
    """The whole first frame, upright, in RGB over white; large JPEGs at a scale that still exceeds 2 `size`."""
    with open_picture(content) as picture:
        # JPEG decodes at 1/2, 1/4 or 1/8 in a fraction of the time; resampling then still averages.
        picture.draft(picture.mode, (2 * size, 2 * size))
        picture.load()
        return _upright(picture, rgb(picture))


def rgb(picture: Image.Image) -> Image.Image:
    """Any mode as RGB: transparency over white, 16 bits scaled to 8."""
    if picture.mode.startswith("I"):
        picture = _from_16_bit(picture)
    if picture.mode == "F":
        raise Unsupported("holds floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    if picture.mode.endswith(("A", "a")) or "transparency" in picture.info:
        cut_out = picture.convert("RGBA")
        ground = Image.new("RGBA", cut_out.size, "white")
        return Image.alpha_composite(ground, cut_out).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: round(v / 257), so that 65535 is white (Pillow itself clips at 255)."""
    values = np.asarray(picture).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise Unsupported("holds 32-bit pixels, whose range is not known; save it with 8 or 16 bits")
    values[values == picture.info.get("transparency", -1)] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _upright(picture: Image.Image, pixels: Image.Image) -> Image.Image:
    """Turn the pixels as EXIF says; a picture is not refused for unreadable EXIF."""
    undo = UPRIGHT.get(_orientation(picture))
    return pixels if undo is None else pixels.transpose(undo)


def _stored(picture: Image.Image) -> tuple[int, int]:
    """Width and height as the pixels lie in the file; of a TIFF Pillow may have exchanged them already."""
    tags = getattr(picture, "tag_v2", None)
    return picture.size if tags is None else (int(tags[256]), int(tags[257]))


def _orientation(picture: Image.Image) -> int:
    """What EXIF says of how the picture lies; 0 where it says nothing that can be read."""
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:
        return 0
    return orientation if isinstance(orientation, int) else 0
