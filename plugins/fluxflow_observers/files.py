"""Files that are whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by one rename, so that no reader and no crash ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    working = path.with_name(f".{path.name}.writing")
    try:
        with working.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        working.replace(path)
    finally:
        working.unlink(missing_ok=True)
