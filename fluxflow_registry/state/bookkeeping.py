"""What a run reads back of its bookkeeping: checked in one place; what is damaged is set aside, and training resumes.

No weight depends on these files: records, times, logs. They may be emptied, edited, or damaged by the disk.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fluxflow_registry.errors import RunError, counted, one_line
from fluxflow_registry.state import disk

T = TypeVar("T")

#: Bytes of a file with one JSON value: what is larger was not written by a run.
LARGEST = 1 << 26

#: What a check of a file's content may raise for anything that a run would not have written.
WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def parse_json(content: bytes) -> Any:
    """The value of a JSON text; raises ValueError, or RecursionError if it is nested too deeply; NaN is not JSON."""
    return json.loads(content, parse_constant=_reject)


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises RunError if it cannot be read."""
    try:
        content = disk.read_file(path, LARGEST + 1)
        if len(content) > LARGEST:
            raise OSError(errno.EFBIG, f"it is larger than {LARGEST:,} bytes")
        return parse_json(content)
    except OSError as error:
        message = f"`{path.name}` cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        message = f"`{path.name}` is not valid JSON: {one_line(error)}"
    raise RunError(message, str(path), code="unreadable-file")


def read_back(path: Path, check: Callable[[Any], T], warn: Callable[[str], object]) -> T | None:
    """What `check` returns for the content of a JSON file that the run wrote; None if it is missing or damaged.

    `check` raises an exception for anything that a run does not write. The file is then renamed to `.NAME.damaged`, and
    `warn` is called with a message that names both.
    """
    try:
        return check(read_json(path))
    except RunError as error:
        cause = error.problems[0].message
    except WRONG as error:
        cause = f"`{path.name}` is damaged: {error if type(error) is ValueError else one_line(error)}"
    if os.path.lexists(path):
        warn(f"{cause}\n    {_set_aside(path)}; training resumes without it")
    return None


def read_back_lines(path: Path, check: Callable[[Any], T], warn: Callable[[str], object]) -> list[tuple[bytes, T]]:
    """The lines of a JSON Lines file that the run wrote, each with what `check` returns for its value.

    Damaged lines are removed from the file. The last one is what a crash leaves; if there are others, the file as it
    was is kept as `.NAME.damaged`, and `warn` is called with a message that names both.
    """
    try:
        content = disk.read_file(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        warn(f"`{path.name}` cannot be read: {error.strerror}\n    {_set_aside(path)}; training resumes without it")
        return []
    if path.is_symlink():
        warn(
            f"`{path.name}` is a link\n    it is replaced by a copy of the file that it leads to, which stays unchanged"
        )
        disk.replace(path, content)
    found, damaged, torn = [], 0, False
    for line in content.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("the line is incomplete")
            found.append((line, check(parse_json(line))))
            torn = False
        except WRONG:
            damaged, torn = damaged + 1, True
    if damaged > torn:
        lines = counted(damaged - torn, "damaged line")
        warn(f"`{path.name}` has {lines}\n    {_set_aside(path)}; training resumes with the other lines")
    if damaged:
        disk.write_file(path, b"".join(line for line, _ in found))
    return found


def _set_aside(path: Path) -> str:
    """Set a file aside; returns what became of it."""
    try:
        return f"quarantined as {disk.set_aside(path).name}"
    except OSError as error:
        return f"it cannot be renamed: {error.strerror}"
