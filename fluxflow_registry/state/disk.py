"""Files that are on the disk once a call returns: synced, digested, replaced whole, never the target of a link.

A run's folder may be on any disk, and anything may be in it. What a disk cannot do (sync, lock) is not an error:
`missing_guarantees` describes it. A link, a pipe or a device is replaced where a file is written, and never read.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from fluxflow_registry.errors import Location, RunError

try:
    import fcntl
except ImportError:  # not a Unix: files cannot be locked
    fcntl = None  # type: ignore[assignment]

#: Bytes written at a time.
BLOCK = 1 << 22

#: Errors of an operation that a file system does not have: CIFS, FUSE and cluster file systems report different ones.
UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})

#: The same of a folder, which some systems cannot open at all.
UNSUPPORTED_FOR_FOLDERS = UNSUPPORTED | {errno.EISDIR, errno.EACCES, errno.EBADF}

#: The same of a lock: an NFS mount without a lock server reports that there are none.
UNSUPPORTED_LOCK = UNSUPPORTED | {errno.ENOLCK}

#: What is wrong with a link, a pipe or a device where a file is expected.
NOT_REGULAR = "it is not a regular file"

#: Flags with which a link is not followed and a pipe is not waited for, where the system has them.
_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


def write(path: Path, parts: Iterable[bytes | memoryview], synced: bool = True) -> dict[str, Any]:
    """Write a new file and sync it; returns its size and digest as intended, not as read back."""
    digest, size = sha256(), 0
    with _create(path) as file:
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), BLOCK):
                block = view[start : start + BLOCK]
                digest.update(block)
                _write_all(file.fileno(), block)
            size += len(view)
        if synced:
            sync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _create(path: Path) -> IO[bytes]:
    """A new file; what has its name is removed first, so that nothing is written through a link or into a pipe."""
    # Unbuffered: a process forked meanwhile has no copy of a half-full buffer to write out again.
    try:
        return path.open("xb", buffering=0)
    except FileExistsError:
        path.unlink()
        return path.open("xb", buffering=0)


def _write_all(handle: int, content: bytes | memoryview) -> None:
    """Write all of it: a system call may write less, as it does when a disk becomes full."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _open_own(path: Path, flags: int) -> int:
    """Open a file to write to it as it is; raises OSError for a link, a pipe or a device, which lead elsewhere."""
    return _open(path, flags | os.O_CREAT | _NO_FOLLOW | _NO_WAIT | getattr(os, "O_BINARY", 0))


def append_file(path: Path, content: bytes) -> None:
    """Append to a file, all of the content or none of it; the file and its folder are created if they do not exist.

    Not synced: see `sync_file`. Raises OSError for what is not a regular file.
    """
    make_folder(path.parent, parents=False)
    handle = _open_own(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, content)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Sync a file that exists, and its name."""
    with open_regular(path) as file:
        sync(file.fileno())
    sync_folder(path.parent)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; raises OSError for what may never end or never answer, such as a device or a pipe."""
    return open(path, "rb", opener=lambda _, flags: _open(path, flags | _NO_WAIT))


def read_file(path: Path, most: int = -1) -> bytes:
    """The content of a file, or the first `most` bytes of it.

    Raises OSError for what may never end or never answer, such as a device or a pipe.
    """
    with open_regular(path) as file:
        return file.read(most)


def _open(path: Path, flags: int) -> int:
    """Open a file; raises OSError for a folder, a pipe, a device, and, where they are not followed, a link."""
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        # What opening a socket, a pipe that nobody reads, or a link comes to.
        if error.errno == errno.ENXIO or (error.errno == errno.ELOOP and flags & _NO_FOLLOW):
            raise OSError(error.errno, NOT_REGULAR, str(path)) from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.ENXIO, NOT_REGULAR, str(path))
    return handle


def digest(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file as it is."""
    with open_regular(path) as file:
        return {"sha256": file_digest(file, sha256).hexdigest(), "size": file.tell()}


def replace(path: Path, content: bytes, shared: bool = False, synced: bool = True) -> None:
    """Replace a file whole: a reader finds the old one or the new one, even after a crash.

    What a killed process leaves is overwritten by the next one. A `shared` file may be replaced by several processes at
    once: each writes under a name of its own, which stays behind if it is killed.
    """
    working = path.with_name(f".{path.name}.{os.urandom(4).hex()}.writing" if shared else f".{path.name}.writing")
    try:
        write(working, [content], synced)
        try:
            working.replace(path)
        except IsADirectoryError:
            raise IsADirectoryError(errno.EISDIR, f"`{path.name}` is a folder", str(path)) from None
    except BaseException:
        with suppress(OSError):
            working.unlink()
        raise
    if synced:
        sync_folder(path.parent)


@contextmanager
def writing(what: str, where: Location | str) -> Iterator[None]:
    """Raise RunError, with its location, for what cannot be created or written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {what}: {error.strerror}", where, code="unwritable-file") from None


def write_file(path: Path, content: bytes, shared: bool = False, parents: bool = True) -> None:
    """Replace a file whole, as `replace` does; a folder that does not exist is created.

    Its `parents` are created too, but must not be in the folder of a run, which may have been deleted or moved.
    """
    make_folder(path.parent, parents)
    replace(path, content, shared)


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            sync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def set_aside(path: Path) -> Path:
    """Rename what is damaged to `.NAME.damaged`, so that it no longer counts but can still be inspected."""
    number, aside = 1, path.with_name(f".{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f".{path.name}.{number}.damaged")
    return path.rename(aside)


def sync(handle: int, unsupported: Collection[int] = UNSUPPORTED) -> bool:
    """Sync an open file; returns False where the file system cannot. Raises OSError where the disk fails."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in unsupported:
            raise
        return False
    return True


def sync_folder(folder: Path) -> bool:
    """Sync a folder, so that the names in it persist; returns False where the file system cannot."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in UNSUPPORTED_FOR_FOLDERS:
            raise
        return False
    try:
        return sync(handle, UNSUPPORTED_FOR_FOLDERS)
    finally:
        os.close(handle)


def make_folder(folder: Path, parents: bool = True) -> None:
    """Create a folder, and its parents unless they must exist, and sync their names."""
    if not folder.is_dir():
        if parents:
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def open_lock(path: Path) -> IO[bytes]:
    """Open a file to be locked, and create it if it does not exist; raises OSError for what is not a regular file."""
    return os.fdopen(_open_own(path, os.O_RDWR), "r+b", buffering=0)


def lock(file: IO[bytes] | int, shared: bool = False) -> bool:
    """Lock an open file until it is closed; returns False where the file system or the system has no locks.

    Raises BlockingIOError or PermissionError if another process has locked it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED_LOCK:
            raise
        return False
    return True


def missing_guarantees(file: IO[bytes], folder: Path) -> Iterator[str]:
    """What cannot be guaranteed on the disk of a folder, a sentence each; `file` is its lock, open and locked."""
    if not lock(file):
        yield "files cannot be locked on this disk: do not start the same run twice, because nothing prevents it"
    if not sync(file.fileno()):
        yield "files cannot be synced on this disk: after a power cut the newest checkpoints may be damaged or missing"
    elif not sync_folder(folder):
        yield "folders cannot be synced on this disk: after a power cut the newest checkpoint may be missing"
