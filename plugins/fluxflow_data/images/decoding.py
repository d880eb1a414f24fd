"""From the bytes of an image file to 8-bit RGB of one size, whatever its format, mode and orientation."""

from __future__ import annotations

from io import BytesIO
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .size import Size, largest_crop

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The formats that are read; no other decoder is tried.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

#: EXIF's tag of the orientation, and what undoes each value (the others need nothing).
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
SIDEWAYS = (5, 6, 7, 8)


class UnknownRangeError(ValueError):
    """The pixels of an image have no known range; the argument names their type."""


def open_image(content: bytes | IO[bytes]) -> Image.Image:
    """Read the header of an image; its pixels are read later."""
    stream = BytesIO(content) if isinstance(content, bytes) else content
    return Image.open(stream, formats=FORMATS)


def crop_image(content: bytes, size: Size) -> NDArray[np.uint8]:
    """The image resized until it covers `size`, and its center: uint8 [height, width, 3].

    Resampling crops the source itself, which costs the same for any aspect ratio: an image of 30000 x 1 pixels never
    becomes one of 30000 s x s.
    """
    image = decode(content, max(size.width, size.height))
    width, height = largest_crop(image.width, image.height, size)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.LANCZOS, box=box))


def upright_size(stream: bytes | IO[bytes]) -> tuple[int, int]:
    """Width and height of the upright image, from its header: no pixel is decoded."""
    with open_image(stream) as image:
        # Pillow would decode a whole PNG to look for EXIF after its pixels.
        has_orientation = image.format != "PNG" or "exif" in image.info
        stored = _stored_size(image)
        return stored[::-1] if has_orientation and _orientation(image) in SIDEWAYS else stored


def decode(content: bytes, size: int) -> Image.Image:
    """The whole first frame, upright, in RGB over white; a large JPEG at a scale that still exceeds 2 `size`."""
    with open_image(content) as image:
        # JPEG decodes at 1/2, 1/4 or 1/8 in a fraction of the time, and resampling still averages.
        image.draft(image.mode, (2 * size, 2 * size))
        image.load()
        pixels, undo = to_rgb(image), UPRIGHT.get(_orientation(image))
        return pixels if undo is None else pixels.transpose(undo)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: transparency over white, 16 bits scaled to 8. Raises UnknownRangeError."""
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    if image.mode == "F":
        raise UnknownRangeError("floating-point")
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        transparent = image.convert("RGBA")
        ground = Image.new("RGBA", transparent.size, "white")
        return Image.alpha_composite(ground, transparent).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray: round(v / 257), so that 65535 is white (Pillow itself clips at 255)."""
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise UnknownRangeError("32-bit")
    values[values == image.info.get("transparency", -1)] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the stored pixels; of a TIFF, Pillow may have exchanged them already."""
    return (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 0 where EXIF has none or cannot be read, which does not make an image unusable."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:
        return 0
    return orientation if isinstance(orientation, int) else 0
