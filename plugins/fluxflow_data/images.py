"""Image files as 8-bit sRGB of one size, whatever their format, mode and orientation, and what is wrong with one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from fluxflow_registry import FluxflowError, Place, Problem, open_regular

from .colors import to_srgb
from .files import IMAGE_BYTES, read_limited, why_missing
from .sizes import Size, largest_crop

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

#: The formats that are read; no other decoder is tried: some start another program, and some take any bytes for theirs.
#: The most frequent are tried first, and TGA last, because its files have no signature. Pillow may not have AVIF.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "QOI", "DIB", "PCX", "SGI", "SUN", "TGA",
)  # fmt: skip

#: A PNG's signature, and the chunks that Pillow decompresses to 1 MiB at most: texts, and the color profile.
PNG_SIGNATURE, PNG_LIMITED = b"\x89PNG\r\n\x1a\n", ((b"tEXt", b"zTXt", b"iTXt"), (b"iCCP",))

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

#: Images passed to the threads at a time, so that a folder of millions does not fill the memory with tasks.
IMAGES_AT_ONCE = 4096

#: How a problem describes an image, the bare name of its sample, and where it is stored.
ImageName = tuple[str, str, Place]


class UnknownRangeError(ValueError):
    """The pixels of an image have no known range; the argument names their type."""


def open_image(content: bytes | IO[bytes]) -> Image.Image:
    """Read the header of an image; its pixels are read later."""
    Image.init()  # otherwise only the formats are known that have been used
    stream = BytesIO(content) if isinstance(content, bytes) else content
    return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])


def read_image(content: bytes | IO[bytes], read: Callable[[Image.Image], T]) -> T:
    """What `read` returns for an image. A PNG with a text that Pillow finds too large is read without its texts."""
    try:
        with open_image(content) as image:
            return read(image)
    except UnknownRangeError:
        raise
    except ValueError:
        if not isinstance(content, bytes):
            content.seek(0)
            content = content.read(IMAGE_BYTES)
        for kinds in PNG_LIMITED if content.startswith(PNG_SIGNATURE) else ():
            bare = without_chunks(content, kinds)
            if len(bare) < len(content):
                return read_image(bare, read)
        raise


def without_chunks(content: bytes, kinds: Collection[bytes]) -> bytes:
    """A PNG without its chunks of these kinds; what follows an incomplete one is kept."""
    parts, at = [content[: len(PNG_SIGNATURE)]], len(PNG_SIGNATURE)
    while at + 12 <= len(content):  # length, kind, data, checksum
        stop = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] not in kinds:
            parts.append(content[at:stop])
        at = stop
    return b"".join([*parts, content[at:]])


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

    def read(image: Image.Image) -> tuple[int, int]:
        # Of a TIFF, Pillow may have exchanged width and height already.
        stored = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
        return stored[::-1] if _orientation(image) in SIDEWAYS else stored

    return read_image(stream, read)


def decode(content: bytes, size: int) -> Image.Image:
    """The whole first frame, upright, in sRGB over white; a large JPEG at a scale that still exceeds 2 `size`."""

    def read(image: Image.Image) -> Image.Image:
        # JPEG decodes at 1/2, 1/4 or 1/8 in a fraction of the time, and resampling still averages.
        image.draft(image.mode, (2 * size, 2 * size))
        image.load()
        pixels, undo = to_rgb(image), UPRIGHT.get(_orientation(image))
        return pixels if undo is None else pixels.transpose(undo)

    return read_image(content, read)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: colors in sRGB, transparency over white, 16 bits scaled to 8. Raises UnknownRangeError."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    if image.mode == "F":
        raise UnknownRangeError("floating-point")
    colors = to_srgb(image, profile)
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        transparent = image.convert("RGBA")
        if colors is not None:
            colors.putalpha(transparent.getchannel("A"))
            transparent = colors
        ground = Image.new("RGBA", transparent.size, "white")
        return Image.alpha_composite(ground, transparent).convert("RGB")
    return image.convert("RGB") if colors is None else colors


def _from_16_bit(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray: round(v / 257), so that 65535 is white (Pillow itself clips at 255)."""
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise UnknownRangeError("32-bit")
    values[values == image.info.get("transparency", -1)] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 0 where EXIF has none or cannot be read, which does not make an image unusable."""
    try:
        # Not that of PNG, which would decode all of it to look for EXIF after its pixels.
        orientation = Image.Image.getexif(image).get(ORIENTATION)
    except Exception:
        return 0
    return orientation if isinstance(orientation, int) else 0


def measure_images(
    paths: Sequence[Path], name: Callable[[Path], ImageName], verify: bool
) -> list[tuple[int, int] | Problem]:
    """Width and height of each image, or why it cannot be read, in parallel; `verify`: every pixel is decoded."""
    workers = min(8, os.cpu_count() or 1)  # decoders release the interpreter's lock
    sizes: list[tuple[int, int] | Problem] = []
    with pillow_warnings(), ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), IMAGES_AT_ONCE):
            sizes += pool.map(partial(_measure, name=name, verify=verify), paths[start : start + IMAGES_AT_ONCE])
    return sizes


def size_in_header(content: bytes) -> tuple[int, int] | None:
    """Width and height of an image by its first bytes; None if they are too few, or not those of an image."""
    with suppress(Exception):
        return upright_size(content)
    return None


def load_images(
    indices: Sequence[int],
    read: Callable[[int], bytes],
    name: Callable[[int], ImageName],
    size: Size,
    damaged: dict[int, Problem],
) -> list[NDArray[np.uint8]]:
    """Each image as uint8 [H, W, 3] of `size`; adds to `damaged`, by index, why others cannot be read."""
    images: list[NDArray[np.uint8]] = []
    with pillow_warnings():
        for index in indices:
            content = b""
            try:
                content = read(index)
                images.append(crop_image(content, size))
            except FluxflowError:  # about the whole source, not about this sample
                raise
            except Exception as error:
                damaged[index] = _problem(error, name(index), empty=not content)
    return images


def _measure(path: Path, name: Callable[[Path], ImageName], verify: bool) -> tuple[int, int] | Problem:
    """One image's size, or its problem. Whatever a decoder raises on its bytes is the file's fault."""
    try:
        if verify:
            content = read_limited(path, IMAGE_BYTES)
            read_image(content, Image.Image.verify)  # checksums, which decoding ignores
            decode(content, 1)
            return upright_size(content)
        with open_regular(path) as stream:
            return upright_size(stream)
    except Exception as error:
        return _problem(error, name(path), empty=_is_empty(path))


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _problem(error: Exception, name: ImageName, empty: bool) -> Problem:
    """Why an image cannot be used."""
    image, subject, where = name
    code, hint = "damaged-sample", ""
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        code, hint = "unsupported-image", "scale it down"
        message = f"{image} is too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    elif isinstance(error, UnknownRangeError):
        code, hint = "unsupported-image", "save it with 8 or 16 bits per channel"
        message = f"{image} has {error} pixels, whose range is unknown"
    elif isinstance(error, FileNotFoundError):
        code, message = "missing-file", f"{image} {why_missing(where.file, 'no longer exists')}"
    elif isinstance(error, UnidentifiedImageError) and empty:
        message = f"{image} is empty (0 bytes)"
    elif isinstance(error, UnidentifiedImageError):
        hint = f"convert it to one of the formats {', '.join(FORMATS)}"
        message = f"{image} is not an image in a supported format"
    elif isinstance(error, OSError) and error.errno is not None:
        code, message = "unreadable-file", f"cannot read {image}: {error.strerror}"
    else:
        cause = str(error).strip().splitlines()
        message = f"{image} is damaged: {cause[0] if cause else type(error).__name__}"
    return Problem(message, where, (("hint", hint),) if hint else (), code=code, subject=subject)


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Turn a decompression bomb into an error, and ignore what else Pillow remarks about unusual files.

    Filters belong to the whole process, so they are set around the threads, not in them.
    """
    Image.init()  # the first use of a format would load them all, in several threads at once
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
