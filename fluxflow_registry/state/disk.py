"""Files that are on the disk once a call returns: synced, digested, replaced whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from fluxflow_registry.errors import Location, RunError

#: Bytes written at a time.
BLOCK = 1 << 22


def write(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a new file and sync it; returns its size and digest as intended, not as read back."""
    digest, size = sha256(), 0
    # Unbuffered: a process forked meanwhile has no copy of a half-full buffer to write out again.
    with path.open("wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), BLOCK):
                block = view[start : start + BLOCK]
                digest.update(block)
                while block:
                    block = block[os.write(file.fileno(), block) :]
            size += len(view)
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def digest(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file as it is."""
    with path.open("rb") as file:
        return {"sha256": file_digest(file, sha256).hexdigest(), "size": file.tell()}


def replace(path: Path, content: bytes, shared: bool = False) -> None:
    """Replace a file whole: a reader finds the old one or the new one, even after a crash.

    What a killed process leaves is overwritten by the next one. A `shared` file may be replaced by several processes at
    once: each writes under a name of its own, which stays behind if it is killed.
    """
    working = path.with_name(f".{path.name}.{os.urandom(4).hex()}.writing" if shared else f".{path.name}.writing")
    try:
        write(working, [content])
        working.replace(path)
    except BaseException:
        working.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def writing(what: str, where: Location | str) -> Iterator[None]:
    """Raise RunError, with its location, for what cannot be created or written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {what}: {error.strerror}", where, code="unwritable-file") from None


def write_file(path: Path, content: bytes, shared: bool = False) -> None:
    """Replace a file whole, as `replace` does; a folder that does not exist is created."""
    make_folder(path.parent)
    replace(path, content, shared)


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it persist."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and sync their names."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
