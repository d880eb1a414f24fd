"""The files of a folder by their names, and how names are told to a user."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from attrs import evolve, frozen

from fluxflow_registry import Problem

#: Endings of pictures, in any case.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@frozen
class Sample:
    """One picture and what it shows."""

    path: Path
    caption: str
    #: The path below the folder, in composed Unicode and with `/` between folders.
    name: str


@frozen
class Flaw:
    """What is wrong with one picture, or with a line that may be about any."""

    problem: Problem
    name: str | None = None


def each_once(flaws: Iterable[Flaw]) -> list[Flaw]:
    """The flaws, those of one picture as one: it is one picture that cannot be used, however much is wrong with it."""
    found: dict[object, Flaw] = {}
    for number, flaw in enumerate(flaws):
        key: object = number if flaw.name is None else flaw.name
        first = found.setdefault(key, flaw).problem
        if first is not flaw.problem:
            notes = (*first.notes, ("besides", flaw.problem.message), *flaw.problem.notes)
            found[key] = evolve(flaw, problem=evolve(first, notes=notes))
    return list(found.values())


def stem(name: str) -> str:
    """A picture's name without its ending, which it shares with its caption: the key that it would have in a shard."""
    return PurePosixPath(name).with_suffix("").as_posix()


def listing(root: Path, problems: list[Problem]) -> dict[str, str]:
    """Every file below `root` that is not hidden: its name in composed Unicode, and as it is on disk.

    Names are relative to `root`, with `/` between folders. (macOS stores `é` as two characters, so
    that a name copied from elsewhere is another string.)
    """

    def unreadable(error: OSError) -> None:
        problems.append(Problem(f"cannot be read: {error.strerror}", shown(error.filename)))

    found = {}
    for folder, inner, names in os.walk(root, onerror=unreadable):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        for name in names:
            if not name.startswith("."):
                actual = (inside / name).as_posix()
                found[composed(actual)] = actual
    return dict(sorted(found.items()))


def composed(name: str) -> str:
    """The name in Unicode's composed form, under which files are compared."""
    return unicodedata.normalize("NFC", name)


def shown(name: str | bytes | Path) -> str:
    """A name that can be printed whatever bytes it holds: others appear as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
