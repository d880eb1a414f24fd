"""Reads at a place of a file, by descriptors that stay open within a process."""

from __future__ import annotations

import os
from contextlib import suppress

from fluxflow_registry import DataError, Problem

from .files import shown

#: Files that a process keeps open; a system allows it some hundreds in all.
OPEN = 64


class Reader:
    """Bytes of files that must not change; opens each when it is first read from.

    A read has its own offset and moves no file position, so processes that were forked share
    descriptors without harm. A process that was spawned opens its own.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def read(self, path: str, offset: int, size: int, state: tuple[int, int]) -> bytes:
        """`size` bytes from `offset` of a file of the given length and time; raises DataError if it is another now."""
        descriptor = self._descriptor(path, state)
        content = os.pread(descriptor, size, offset)
        while len(content) < size:  # a system reads 2 GiB at most in one go
            more = os.pread(descriptor, size - len(content), offset + len(content))
            if not more:
                raise _changed(path)
            content += more
        return content

    def _descriptor(self, path: str, state: tuple[int, int]) -> int:
        descriptor = self._open.pop(path, None)
        if descriptor is None:
            descriptor = _opened(path, state)
        self._open[path] = descriptor  # now the last to be closed
        if len(self._open) > OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        return descriptor

    def __reduce__(self) -> tuple[type[Reader], tuple[()]]:
        """Another process begins with no descriptors."""
        return Reader, ()

    def __del__(self) -> None:
        for descriptor in self._open.values():
            with suppress(OSError):
                os.close(descriptor)


def _opened(path: str, state: tuple[int, int]) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise DataError(Problem("there is no such shard any more", shown(path))) from None
    except OSError as error:
        raise DataError(Problem(f"cannot be read: {error.strerror}", shown(path))) from error
    now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != state:
        os.close(descriptor)
        raise _changed(path)
    return descriptor


def _changed(path: str) -> DataError:
    return DataError(Problem("has changed since the dataset was opened; start again to read it anew", shown(path)))
