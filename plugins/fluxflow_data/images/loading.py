"""Reading many pictures, each problem told in a user's words."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from fluxflow_registry import FluxflowError, Problem

from ..folder.files import shown
from .decoding import FORMATS, Unsupported, cut, decode, open_picture, size_in_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..batching.buckets import Size

#: Pictures handed to the threads at a time, so that a folder of millions does not fill the memory with tasks.
AT_ONCE = 4096


def surveyed(paths: Sequence[Path], whole: bool) -> list[tuple[int, int] | Problem]:
    """Width and height of each picture, or why it cannot be read, in parallel; `whole`: down to its last pixel."""
    workers = min(8, os.cpu_count() or 1)  # decoders release the interpreter's lock
    found: list[tuple[int, int] | Problem] = []
    with _pillow_warnings(), ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), AT_ONCE):
            found += pool.map(partial(_try, whole=whole), paths[start : start + AT_ONCE])
    return found


def sizes_of(headers: Iterable[bytes], whole: Callable[[int], bytes]) -> list[tuple[int, int]]:
    """Width and height of each picture by its first bytes, 0 of what is none; `whole(i)` reads all, where they end."""
    with _pillow_warnings():
        return [_size(header, partial(whole, number)) for number, header in enumerate(headers)]


def _size(header: bytes, whole: Callable[[], bytes]) -> tuple[int, int]:
    with suppress(Exception):
        return size_in_header(header)
    with suppress(Exception):  # told when the sample is read
        return size_in_header(whole())
    return 0, 0


def read_all(
    indices: Sequence[int],
    read: Callable[[int], bytes],
    name: Callable[[int], str],
    size: Size,
    damaged: dict[int, Problem],
) -> list[NDArray[np.uint8]]:
    """Each picture as [H, W, 3] of that size; adds to `damaged`, by index, a problem for each that cannot be read."""
    pictures: list[NDArray[np.uint8]] = []
    with _pillow_warnings():
        for index in indices:
            content = b""
            try:
                content = read(index)
                pictures.append(cut(content, size))
            except FluxflowError:  # nothing of this sample, but of the whole source
                raise
            except Exception as error:
                damaged[index] = _told(name(index), error, empty=not content)
    return pictures


def _try(path: Path, whole: bool) -> tuple[int, int] | Problem:
    """One picture's size, or what is wrong with it. Whatever a decoder raises on its bytes is the file's fault."""
    try:
        if whole:
            content = path.read_bytes()
            with open_picture(content) as picture:
                picture.verify()  # checksums, which decoding passes over
            decode(content, 1)
            return size_in_header(content)
        with path.open("rb") as stream:
            return size_in_header(stream)
    except Exception as error:
        return _told(shown(path), error, empty=_is_empty(path))


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _told(where: str, error: Exception, empty: bool) -> Problem:
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return Problem(f"is too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down", where)
    if isinstance(error, Unsupported):
        return Problem(str(error), where)
    if isinstance(error, FileNotFoundError):
        return Problem("is not there", where)
    if isinstance(error, UnidentifiedImageError):
        if empty:
            return Problem("is empty: 0 bytes", where)
        return Problem("is not a picture", where, (("readable", ", ".join(FORMATS)),))
    if isinstance(error, OSError) and error.errno is not None:
        return Problem(f"cannot be read: {error.strerror}", where)
    detail = str(error).strip().splitlines()
    return Problem(f"is damaged: {detail[0] if detail else type(error).__name__}", where)


@contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Make a decompression bomb an error, and leave out what else Pillow remarks about a file's oddities.

    Filters belong to the whole process, so they are set around the threads, not in them.
    """
    Image.init()  # the first use of a format would load them all, in several threads at once
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
