"""Limits of other people's files: of each at most so many bytes are read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fluxflow_registry import read_file

#: Bytes that an image, a caption, and a file of captions may have. A longer one is not what its name says.
IMAGE_BYTES, CAPTION_BYTES, TABLE_BYTES = 1 << 30, 1 << 20, 1 << 30


def read_limited(path: Path, most: int) -> bytes:
    """The content of a file; raises OSError if it has more than `most` bytes, or is not a regular file."""
    try:
        size = os.stat(path).st_size
    except ValueError:  # no file has a NUL or a lone surrogate in its name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    check_size(size, most)
    content = read_file(path, size + 1)
    if len(content) > size:  # it has grown, or is one of a system that does not know its size
        content = read_file(path, most + 1)
    check_size(len(content), most)
    return content


def check_size(size: int, most: int) -> None:
    """Raise OSError for a file, or a member of one, that has more than `most` bytes."""
    if size > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")


def why_missing(path: str | os.PathLike[str], otherwise: str = "does not exist") -> str:
    """Why a file or folder is not there, as the predicate of a sentence."""
    try:
        target = os.readlink(path)
    except (OSError, ValueError):  # it is not a link, or not a path
        return otherwise
    return f"is a link to `{target}`, which does not exist"
