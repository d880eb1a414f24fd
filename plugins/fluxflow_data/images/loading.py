"""Load many images; each one that fails becomes a problem that names it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from fluxflow_registry import FluxflowError, Place, Problem

from .decoding import FORMATS, UnknownRangeError, crop_image, decode, open_image, upright_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .size import Size

#: Images given to the threads at a time, so that a folder of millions does not fill the memory with tasks.
IMAGES_AT_ONCE = 4096

#: How a problem describes an image, the bare name of its sample, and where it is stored.
ImageName = tuple[str, str, Place]


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
            content = path.read_bytes()
            with open_image(content) as image:
                image.verify()  # checksums, which decoding ignores
            decode(content, 1)
            return upright_size(content)
        with path.open("rb") as stream:
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
        code, message = "missing-file", f"{image} no longer exists"
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
