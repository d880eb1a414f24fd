"""A file on a server, read in parts: each part must be of the version that was opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from http.client import HTTPException, HTTPResponse

from attrs import frozen

from .requests import ATTEMPTS, connection_lost, response, shard_error, wait

#: Bytes that are requested at once where headers are read.
STRETCH = 1 << 16

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


@frozen
class RemoteFile:
    """A file on a server: its length, and a number that stands for its version (ETag, else Last-Modified)."""

    url: str
    token_env: str | None
    length: int | None
    version: int
    #: Whether the server returns parts of it.
    ranged: bool

    @property
    def state(self) -> tuple[int, int]:
        """Length and version, as a local file has length and time."""
        return self.length or 0, self.version


def probe(url: str, token_env: str | None) -> RemoteFile:
    """Describe a file, from a request for its first byte; raises DataError."""
    with response(url, token_env, (0, 1)) as answer:
        ranged = answer.status == 206
        length = answer.headers.get("Content-Length", "")
        known = _range(answer, url)[2] if ranged else int(length) if length.isdigit() else None
        return RemoteFile(url, token_env, known, _version(answer), ranged)


class ReadAhead:
    """Reads a file a stretch at a time: headers are close together where images are small."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._start = 0
        self._content = b""

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end, as `os.pread` returns them."""
        file = self._file
        stop = min(offset + size, file.length or 0)
        if not self._start <= offset <= stop <= self._start + len(self._content):
            self._start = offset
            self._content = read_range(file.url, file.token_env, offset, max(size, STRETCH), file.state)
        return self._content[offset - self._start : stop - self._start]


def read_range(url: str, token_env: str | None, offset: int, size: int, state: tuple[int, int]) -> bytes:
    """`size` bytes from `offset`, fewer at the end; raises DataError unless the file still has that `state`."""
    length, version = state
    stop = min(offset + size, length)
    if offset >= stop:
        return b""
    for attempt in range(ATTEMPTS):
        with response(url, token_env, (offset, stop)) as answer:
            if answer.status != 206:
                raise shard_error(url, "the server no longer returns parts of it", "changed-file")
            if _range(answer, url) != (offset, stop, length) or _version(answer) != version:
                raise _changed(url, "the dataset was opened")
            content = _body(answer)
        if len(content) == stop - offset:
            return content
        wait(attempt)
    raise connection_lost(url)


@contextmanager
def rest_of(file: RemoteFile, offset: int) -> Iterator[HTTPResponse]:
    """The response with all of a file from `offset` on; raises DataError if the file has changed."""
    with response(file.url, file.token_env, (offset, None) if offset else None) as answer:
        if (offset and answer.status != 206) or _version(answer) != file.version:
            raise _changed(file.url, "its download started")
        yield answer


def _changed(url: str, since: str) -> Exception:
    return shard_error(url, f"it has changed since {since}; rerun the command", "changed-file")


def _body(answer: HTTPResponse) -> bytes:
    try:
        return answer.read()
    except (OSError, HTTPException):
        return b""


def _range(answer: HTTPResponse, url: str) -> tuple[int, int, int]:
    """The start and stop of the part in a response, and the length of the file."""
    match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    if match is None:
        raise shard_error(url, "the server does not say which part it returned", "unreachable-server")
    start, last, length = map(int, match.groups())
    return start, last + 1, length


def _version(answer: HTTPResponse) -> int:
    tag = answer.headers.get("ETag", "").removeprefix("W/") or answer.headers.get("Last-Modified", "")
    return int.from_bytes(blake2b(tag.encode(), digest_size=7).digest(), "big")
