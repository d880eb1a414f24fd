"""Reads of spans of shards, by descriptors that stay open within a process or by requests to a server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from fluxflow_registry import DataError

from .parallel import in_parallel
from .paths import is_remote, shard_problem
from .remote import read_range
from .tar import read_at

#: Requests to a server at the same time.
REQUESTS_AT_ONCE = 16

#: So many unneeded bytes between two spans are read rather than requesting the spans separately.
LARGEST_GAP = 1 << 16

#: Files that a process keeps open; a system allows it some hundreds in all.
OPEN = 64


class Span(NamedTuple):
    """Some bytes of a shard, which must still have the `state` (length and time) that it was opened with."""

    path: str
    offset: int
    size: int
    state: tuple[int, int]

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.size


class Reader:
    """Bytes of files that must not change; opens each when it is first read from.

    A read has its own offset and moves no file position, so processes that were forked share descriptors safely. A
    process that was spawned opens its own.
    """

    def __init__(self, token_env: str | None = None) -> None:
        self._token_env = token_env
        self._open: dict[str, int] = {}
        #: Spans of remote shards that have been requested ahead, with their bytes.
        self._ahead: list[tuple[Span, bytes]] = []

    @contextmanager
    def ahead(self, rows: Sequence[Sequence[Span]]) -> Iterator[None]:
        """Within it, the spans of remote shards are in memory; spans of a row that are close together are one request.

        The requests are made in parallel, since a server is far away and each waits for its answer.
        """
        remote = [row for row in rows if row and is_remote(row[0].path)]
        if not remote:
            yield
            return
        self._ahead = [part for parts in in_parallel(self._request, remote, REQUESTS_AT_ONCE) for part in parts]
        try:
            yield
        finally:
            self._ahead = []

    def _request(self, row: Sequence[Span]) -> list[tuple[Span, bytes]]:
        url, _, _, state = row[0]
        start, stop = min(span.offset for span in row), max(span.end for span in row)
        if any(span.path != url for span in row) or stop - start > sum(span.size for span in row) + LARGEST_GAP:
            return [part for span in row for part in self._request([span])]
        whole = Span(url, start, stop - start, state)
        return [(whole, read_range(url, self._token_env, start, whole.size, state))]

    def read(self, span: Span) -> bytes:
        """The bytes of a span; raises DataError if the shard has changed."""
        if is_remote(span.path):
            for whole, content in self._ahead:
                if whole.path == span.path and whole.offset <= span.offset and span.end <= whole.end:
                    return content[span.offset - whole.offset :][: span.size]
            return read_range(span.path, self._token_env, span.offset, span.size, span.state)
        descriptor = self._descriptor(span.path, span.state)
        content = read_at(descriptor, span.size, span.offset)
        while len(content) < span.size:  # a system reads 2 GiB at most at once
            more = read_at(descriptor, span.size - len(content), span.offset + len(content))
            if not more:
                raise _changed(span.path)
            content += more
        return content

    def _descriptor(self, path: str, state: tuple[int, int]) -> int:
        descriptor = self._open.pop(path, None)
        if descriptor is None:
            descriptor = _open(path, state)
        self._open[path] = descriptor  # now the last to be closed
        if len(self._open) > OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        return descriptor

    def __reduce__(self) -> tuple[type[Reader], tuple[str | None]]:
        """Another process starts without descriptors."""
        return Reader, (self._token_env,)

    def __del__(self) -> None:
        for descriptor in self._open.values():
            with suppress(OSError):
                os.close(descriptor)


def _open(path: str, state: tuple[int, int]) -> int:
    try:
        # Without waiting for the writer of a pipe that has replaced the shard.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise DataError(shard_problem(path, "no longer exists", "missing-file")) from None
    except OSError as error:
        raise DataError(shard_problem(path, f"cannot be read: {error.strerror}", "unreadable-file")) from error
    now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != state:
        os.close(descriptor)
        raise _changed(path)
    return descriptor


def _changed(path: str) -> DataError:
    return DataError(shard_problem(path, "has changed since the dataset was opened: rerun the command", "changed-file"))
