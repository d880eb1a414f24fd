"""Files kept from one run to the next, each with a digest of its content: a damaged one is never read."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from fluxflow_registry import Notice, write_file

from .files import TABLE_BYTES, read_limited

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGEST_SIZE = 32


def cache_folder(name: str) -> Path | None:
    """Where a kind of file is kept: under `FLUXFLOW_HOME`, else in the user's cache; None for a user without a home."""
    home = os.environ.get("FLUXFLOW_HOME")
    if home:
        return Path(home) / name
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Unchanged: the user id of a container may belong to nobody.
    return None if cache.startswith("~") else Path(cache) / "fluxflow" / name


@frozen
class Cache:
    """One kind of cached file: its first line, `magic`, the digest of the rest, a line of JSON, and arrays."""

    folder: str
    suffix: str
    magic: bytes

    def path(self, *key: Any) -> Path | None:
        """The file that belongs to a key of plain values; None where nothing is kept."""
        digest = blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
        folder = cache_folder(self.folder)
        return folder / (digest + self.suffix) if folder else None

    def read(self, path: Path | None) -> tuple[dict[str, Any], memoryview] | None:
        """The JSON and the bytes of the arrays in a file; None unless it is intact and of this kind."""
        try:
            content = read_limited(path, TABLE_BYTES) if path else b""
        except OSError:
            return None
        start = len(self.magic) + DIGEST_SIZE
        body = memoryview(content)[start:]
        if not content.startswith(self.magic) or content[len(self.magic) : start] != _digest(body):
            return None
        line = content.index(b"\n", start) + 1
        return json.loads(content[start:line]), memoryview(content)[line:]

    def write(self, path: Path | None, facts: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> None:
        """Keep JSON and arrays in a file; where nothing can be written, nothing is kept, and a note says so."""
        if path is None:
            return
        body = b"".join([json.dumps(facts).encode(), b"\n", *(array.tobytes() for array in arrays)])
        try:
            write_file(path, self.magic + _digest(body) + body, shared=True)
        except OSError as error:
            failure = f"cannot cache the index of the data in {path.parent}: {os.strerror(error.errno or 0)}"
            hint = "set FLUXFLOW_HOME to a writable folder, or each command reads the data again"
            warnings.warn(Notice(f"{failure}; {hint}"), stacklevel=2)


def _digest(content: bytes | memoryview) -> bytes:
    return blake2b(content, digest_size=DIGEST_SIZE).digest()
