"""Whole shards fetched from a server into the cache, where they are files like any other."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import blake2b
from http.client import HTTPException
from pathlib import Path

from fluxflow_registry import DataError, Problem

from .requests import ATTEMPTS, RemoteFile, streamed, told, wait

#: Bytes that are written at a time.
CHUNK = 1 << 20

GIB = 1 << 30


def fetched(file: RemoteFile, folder: Path, room: int) -> Path:
    """The shard as a file in `folder`, fetched unless this version of it is there; raises DataError.

    `room` is how many bytes may be fetched. It is written beside its place and renamed, so what is
    there is whole; one that breaks off is gone on with where the server gives parts.
    """
    name = blake2b(f"{file.url}\0{file.version}\0{file.length}".encode(), digest_size=16).hexdigest()
    place = folder / f"{name}.tar"
    if place.exists():
        return place
    if file.length is not None and file.length > room:
        raise _too_large(file, room)
    working = place.with_suffix(f".{os.getpid()}.fetching")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with working.open("wb") as stream:
            for attempt in range(ATTEMPTS):
                if attempt:
                    wait(attempt - 1)
                if not file.ranged:
                    stream.seek(0)
                    stream.truncate()
                if _take(file, stream.fileno(), room):
                    break
            else:
                raise DataError(Problem(f"the server breaks off, {ATTEMPTS} times in a row", told(file.url)))
            os.fsync(stream.fileno())
        working.replace(place)
    except OSError as error:
        raise DataError(Problem(f"cannot be kept in {folder}: {error.strerror}", told(file.url))) from None
    finally:
        with suppress(OSError):
            working.unlink()
    return place


def _take(file: RemoteFile, descriptor: int, room: int) -> bool:
    """Append what is missing of a file; whether it is whole now."""
    have = os.lseek(descriptor, 0, os.SEEK_END)
    with streamed(file, have) as answer:
        while True:
            try:
                content = answer.read(CHUNK)
            except (TimeoutError, ConnectionError, HTTPException):
                return False
            if not content:
                return file.length is None or have == file.length
            have += len(content)
            if have > room:
                raise _too_large(file, room)
            os.write(descriptor, content)


def _too_large(file: RemoteFile, room: int) -> DataError:
    size = f"{file.length / GIB:.1f} GiB" if file.length is not None else "more"
    message = f"has to be fetched whole ({size}), and `fetch_limit` leaves {room / GIB:.1f} GiB for it"
    return DataError(Problem(message, told(file.url)))
