"""Shards on a server: read in parts of the version that was opened, or downloaded whole into the cache."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from hashlib import blake2b, file_digest
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from urllib.parse import urlsplit

from attrs import frozen

from fluxflow_registry import DataError, sync_file

from ..cache import cache_folder
from .paths import unsigned
from .requests import TemporaryError, failure_of, number_in, range_in, repeated, response, shard_error

#: Bytes that are requested at once where headers are read.
STRETCH = 1 << 16

LOST = "the connection was lost"

#: Bytes that are written at a time.
CHUNK = 1 << 20

GIB = 1 << 30

#: Bytes that are read to find the samples of a shard; one that needs more is downloaded.
MOST_READ = GIB


@frozen
class RemoteFile:
    """A file on a server: its length, and a number that stands for its version (ETag, else Last-Modified; else 0)."""

    url: str
    token_env: str | None
    length: int | None
    version: int
    #: Whether the server returns parts of it, and says of which version they are.
    ranged: bool

    @property
    def state(self) -> tuple[int, int]:
        """Length and version, as a local file has length and time."""
        return self.length or 0, self.version


def probe(url: str, token_env: str | None) -> RemoteFile:
    """Describe a file, from a request for its first byte; raises DataError."""

    def attempt() -> RemoteFile:
        with response(url, token_env, (0, 1), 1) as answer:
            in_parts, version = answer.status == 206, _version(answer)
            length = range_in(answer, url)[2] if in_parts else number_in(answer.headers.get("Content-Length"))
            return RemoteFile(url, token_env, length, version, in_parts and version != 0)

    return repeated(url, attempt)


class ManyBytesError(Exception):
    """To find the samples of a shard takes longer than its download."""


class ReadAhead:
    """Reads a file a stretch at a time: headers are close together where images are small."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._start = 0
        self._content = b""
        self._read = 0

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end, as `os.pread` returns them; raises ManyBytesError."""
        file = self._file
        stop = min(offset + size, file.length or 0)
        if not self._start <= offset <= stop <= self._start + len(self._content):
            self._start = offset
            self._read += max(size, STRETCH)
            if self._read > MOST_READ:
                raise ManyBytesError
            self._content = read_range(file.url, file.token_env, offset, max(size, STRETCH), file.state)
        return self._content[offset - self._start : stop - self._start]


def read_range(url: str, token_env: str | None, offset: int, size: int, state: tuple[int, int]) -> bytes:
    """`size` bytes from `offset`, fewer at the end; raises DataError unless the file still has that `state`."""
    length, version = state
    stop = min(offset + size, length)
    if offset >= stop:
        return b""

    def attempt() -> bytes:
        with response(url, token_env, (offset, stop), stop - offset) as answer:
            if answer.status != 206:
                raise shard_error(url, "the server no longer returns parts of it", "changed-file")
            *part, length_now = range_in(answer, url)
            if length_now != length or _version(answer) != version:
                raise _changed(url, "the dataset was opened")
            if part != [offset, stop]:
                raise shard_error(url, "the server returned another part than the requested one", "unreachable-server")
            content = _content(answer, stop - offset + 1)
        if len(content) > stop - offset:
            raise shard_error(url, "the server sends more than the part that was requested", "unreachable-server")
        if len(content) < stop - offset:
            raise TemporaryError(LOST)
        return content

    return repeated(url, attempt)


def _content(answer: HTTPResponse, size: int, progress: bool = False) -> bytes:
    """At most `size` bytes of a response; raises TemporaryError where they cannot be received."""
    try:
        return answer.read(size)
    except (OSError, HTTPException, ValueError) as error:
        raise TemporaryError(failure_of(error) if isinstance(error, TimeoutError) else LOST, progress) from None


def _changed(url: str, since: str) -> Exception:
    return shard_error(url, f"it has changed since {since}; rerun the command", "changed-file")


def _version(answer: HTTPResponse) -> int:
    tag = answer.headers.get("ETag", "").removeprefix("W/") or answer.headers.get("Last-Modified", "")
    return int.from_bytes(blake2b(tag.encode(), digest_size=7).digest(), "big") if tag else 0


class Downloads:
    """Downloads shards to the cache, one after the other, as they share the connection anyway.

    `always` is whether shards are downloaded that could be read in parts; `limit` is how many GiB all of them may have.
    """

    def __init__(self, token_env: str | None, always: bool, limit: float) -> None:
        self.token_env = token_env
        self.always = always
        self._bytes_left = int(limit * GIB)
        self._lock = Lock()
        self._unreachable: set[str] = set()

    def download(self, file: RemoteFile) -> Path:
        """The shard as a file, downloaded unless this version of it is there; raises DataError."""
        path = self._path(file, f"{unsigned(file.url)}\0{file.version}\0{file.length}".encode())
        with self._lock:
            if not file.version or not path.exists() or file.length not in (None, path.stat().st_size):
                path = self._write(file, path)
            self._bytes_left -= path.stat().st_size
        return path

    def require_reachable(self, url: str) -> None:
        """Raise DataError for a shard on a server that did not answer for another one: thousands would wait for it."""
        if urlsplit(url).netloc in self._unreachable:
            raise shard_error(url, "its server did not answer requests for another shard", "unreachable-server")

    def record_unreachable(self, url: str) -> None:
        """Record that the server of a shard does not answer."""
        self._unreachable.add(urlsplit(url).netloc)

    def _write(self, file: RemoteFile, path: Path) -> Path:
        """Write a file and rename it when it is complete; a lost connection is resumed where the server can.

        Returns its path: that of a file whose version is unknown follows from its content.
        """
        if file.length is not None and file.length > self._bytes_left:
            raise self._too_large(file)
        working = path.with_suffix(f".{os.getpid()}.fetching")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with working.open("w+b") as stream:
                repeated(file.url, partial(self._append, file, stream))
                stream.flush()
                if not file.version:
                    stream.seek(0)
                    path = self._path(file, file_digest(stream, blake2b).digest())
                    if path.exists() and path.stat().st_size == os.fstat(stream.fileno()).st_size:
                        return path  # another process may read it
            sync_file(working)
            working.replace(path)
        except OSError as error:
            cause = f"cannot write to {path.parent}: {error.strerror}"
            raise shard_error(file.url, cause, "unwritable-file") from None
        finally:
            with suppress(OSError):
                working.unlink()
        return path

    def _path(self, file: RemoteFile, identity: bytes) -> Path:
        folder = cache_folder("shards")
        if folder is None:
            cause = "it must be downloaded whole, but this user has no home folder"
            hint = ("hint", "set FLUXFLOW_HOME to a folder")
            raise shard_error(file.url, cause, "unwritable-file", [hint])
        return folder / f"{blake2b(identity, digest_size=16).hexdigest()}.tar"

    def _append(self, file: RemoteFile, stream: BinaryIO) -> None:
        """Append what is missing of a file; raises TemporaryError if it is incomplete, DataError if it has changed."""
        start = length = stream.seek(0 if not file.ranged else stream.seek(0, os.SEEK_END))
        stream.truncate()
        if length == file.length:
            return
        most = self._bytes_left if file.length is None else file.length
        with response(file.url, file.token_env, (start, None) if start else None, most) as answer:
            part = range_in(answer, file.url) if answer.status == 206 else None
            if _version(answer) != file.version or part != ((start, file.length, file.length) if start else None):
                raise _changed(file.url, "its download started")
            while content := _content(answer, CHUNK, progress=length > start):
                length += len(content)
                if length > self._bytes_left:
                    raise self._too_large(file)
                if file.length is not None and length > file.length:
                    raise shard_error(file.url, "the server sends more than it announced", "unreachable-server")
                stream.write(content)  # all of it: a system call may write less, as it does when a disk becomes full
        if file.length not in (None, length):
            raise TemporaryError(LOST, progress=length > start)

    def _too_large(self, file: RemoteFile) -> DataError:
        size = f" ({file.length / GIB:.1f} GiB)" if file.length is not None else ""
        cause = f"it must be downloaded whole{size}, but `fetch_limit` leaves {self._bytes_left / GIB:.1f} GiB"
        return shard_error(file.url, cause, "limit-exceeded", [("hint", "increase `fetch_limit`")])
