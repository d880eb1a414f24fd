"""Shards on a server: read in parts of the version that was opened, or downloaded whole into the cache."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from hashlib import blake2b
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from attrs import frozen

from fluxflow_registry import DataError, sync_file

from ..cache import cache_folder
from .requests import ATTEMPTS, connection_lost, response, shard_error, wait

#: Bytes that are requested at once where headers are read.
STRETCH = 1 << 16

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")

#: Bytes that are written at a time.
CHUNK = 1 << 20

GIB = 1 << 30


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
            content = b""
            with suppress(OSError, HTTPException):
                content = answer.read()
        if len(content) == stop - offset:
            return content
        wait(attempt)
    raise connection_lost(url)


def _changed(url: str, since: str) -> Exception:
    return shard_error(url, f"it has changed since {since}; rerun the command", "changed-file")


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


class Downloads:
    """Downloads shards to the cache, one after the other, as they share the connection anyway.

    `always` is whether shards are downloaded that could be read in parts; `limit` is how many GiB all of them may have.
    """

    def __init__(self, token_env: str | None, always: bool, limit: float) -> None:
        self.token_env = token_env
        self.always = always
        self._bytes_left = int(limit * GIB)
        self._lock = Lock()

    def download(self, file: RemoteFile) -> Path:
        """The shard as a file, downloaded unless this version of it is there; raises DataError."""
        name = blake2b(f"{file.url}\0{file.version}\0{file.length}".encode(), digest_size=16).hexdigest()
        folder = cache_folder("shards")
        if folder is None:
            cause = "it must be downloaded whole, but this user has no home folder"
            hint = ("hint", "set FLUXFLOW_HOME to a folder")
            raise shard_error(file.url, cause, "unwritable-file", [hint])
        path = folder / f"{name}.tar"
        with self._lock:
            if not path.exists() or file.length not in (None, path.stat().st_size):
                self._write(file, path)
            self._bytes_left -= path.stat().st_size
        return path

    def _write(self, file: RemoteFile, path: Path) -> None:
        """Write a file and rename it when it is complete; a lost connection is resumed where the server can."""
        if file.length is not None and file.length > self._bytes_left:
            raise self._too_large(file)
        working = path.with_suffix(f".{os.getpid()}.fetching")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with working.open("wb") as stream:
                for attempt in range(ATTEMPTS):
                    if attempt:
                        wait(attempt - 1)
                    if not file.ranged:
                        stream.seek(0)
                        stream.truncate()
                    if self._append(file, stream):
                        break
                else:
                    raise connection_lost(file.url)
            sync_file(working)
            working.replace(path)
        except OSError as error:
            cause = f"cannot write to {path.parent}: {error.strerror}"
            raise shard_error(file.url, cause, "unwritable-file") from None
        finally:
            with suppress(OSError):
                working.unlink()

    def _append(self, file: RemoteFile, stream: BinaryIO) -> bool:
        """Append what is missing of a file; returns whether it is complete. Raises DataError if it has changed."""
        length = stream.seek(0, os.SEEK_END)
        with response(file.url, file.token_env, (length, None) if length else None) as answer:
            if (length and answer.status != 206) or _version(answer) != file.version:
                raise _changed(file.url, "its download started")
            while True:
                try:
                    content = answer.read(CHUNK)
                except (TimeoutError, ConnectionError, HTTPException):
                    return False
                if not content:
                    return file.length is None or length == file.length
                length += len(content)
                if length > self._bytes_left:
                    raise self._too_large(file)
                stream.write(content)  # all of it: a system call may write less, as it does when a disk becomes full

    def _too_large(self, file: RemoteFile) -> DataError:
        size = f" ({file.length / GIB:.1f} GiB)" if file.length is not None else ""
        cause = f"it must be downloaded whole{size}, but `fetch_limit` leaves {self._bytes_left / GIB:.1f} GiB"
        return shard_error(file.url, cause, "limit-exceeded", [("hint", "increase `fetch_limit`")])
