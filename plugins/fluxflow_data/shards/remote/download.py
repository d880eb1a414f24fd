"""Whole shards downloaded from a server into the cache, where they are files like any other."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import blake2b
from http.client import HTTPException
from pathlib import Path
from threading import Lock

from fluxflow_registry import DataError

from ...cache import cache_folder
from .file import RemoteFile, rest_of
from .requests import ATTEMPTS, connection_lost, shard_error, wait

#: Bytes that are written at a time.
CHUNK = 1 << 20

GIB = 1 << 30


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
        path = cache_folder("shards") / f"{name}.tar"
        with self._lock:
            if not path.exists():
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
                    if self._append(file, stream.fileno()):
                        break
                else:
                    raise connection_lost(file.url)
                os.fsync(stream.fileno())
            working.replace(path)
        except OSError as error:
            cause = f"cannot write to {path.parent}: {error.strerror}"
            raise shard_error(file.url, cause, "unwritable-file") from None
        finally:
            with suppress(OSError):
                working.unlink()

    def _append(self, file: RemoteFile, descriptor: int) -> bool:
        """Append what is missing of a file; returns whether it is complete."""
        length = os.lseek(descriptor, 0, os.SEEK_END)
        with rest_of(file, length) as answer:
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
                os.write(descriptor, content)

    def _too_large(self, file: RemoteFile) -> DataError:
        size = f" ({file.length / GIB:.1f} GiB)" if file.length is not None else ""
        cause = f"it must be downloaded whole{size}, but `fetch_limit` leaves {self._bytes_left / GIB:.1f} GiB"
        return shard_error(file.url, cause, "limit-exceeded", [("hint", "increase `fetch_limit`")])
