"""Reads at a place of a shard, by descriptors that stay open within a process or by requests to a server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from fluxflow_registry import DataError, Problem

from ..folder.files import shown
from .remote.requests import is_remote, ranged

#: What is read: a file, the offset and the number of bytes, and the file's length and time.
Place = tuple[str, int, int, tuple[int, int]]

#: Requests to a server at the same time.
AT_ONCE = 16

#: Bytes between two parts that are rather read along than asked for apart.
APART = 1 << 16

#: Files that a process keeps open; a system allows it some hundreds in all.
OPEN = 64


class Reader:
    """Bytes of files that must not change; opens each when it is first read from.

    A read has its own offset and moves no file position, so processes that were forked share
    descriptors without harm. A process that was spawned opens its own.
    """

    def __init__(self, token_env: str | None = None) -> None:
        self.token_env = token_env
        self._open: dict[str, int] = {}
        #: Parts of remote files that have come already: path, offset, content.
        self._here: list[tuple[str, int, bytes]] = []

    @contextmanager
    def ahead(self, places: Sequence[Sequence[Place]]) -> Iterator[None]:
        """Within it, what `places` name is here: each row, which lies close together, comes in one request.

        The requests are made side by side, since a server is far away and each waits for its answer.
        """
        rows = [row for row in places if row and is_remote(row[0][0])]
        if not rows:
            yield
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(rows))) as pool:
            self._here = [part for parts in pool.map(self._fetch, rows) for part in parts]
        try:
            yield
        finally:
            self._here = []

    def _fetch(self, row: Sequence[Place]) -> list[tuple[str, int, bytes]]:
        url, _, _, state = row[0]
        start, stop = min(place[1] for place in row), max(place[1] + place[2] for place in row)
        if any(place[0] != url for place in row) or stop - start > sum(place[2] for place in row) + APART:
            return [part for place in row for part in self._fetch([place])]
        return [(url, start, ranged(url, self.token_env, start, stop - start, state))]

    def read(self, path: str, offset: int, size: int, state: tuple[int, int]) -> bytes:
        """`size` bytes from `offset` of a file of the given length and time; raises DataError if it is another now."""
        if is_remote(path):
            for url, start, part in self._here:
                if url == path and start <= offset and offset + size <= start + len(part):
                    return part[offset - start : offset - start + size]
            return ranged(path, self.token_env, offset, size, state)
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

    def __reduce__(self) -> tuple[type[Reader], tuple[str | None]]:
        """Another process begins with no descriptors."""
        return Reader, (self.token_env,)

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
