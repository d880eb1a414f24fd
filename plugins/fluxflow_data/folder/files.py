"""The files of a folder, its samples, and what is wrong with them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from attrs import evolve, frozen

from fluxflow_registry import Place, Problem

#: Suffixes of images, in any case.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@frozen
class Sample:
    """One image and its caption."""

    path: Path
    caption: str
    #: The path below the folder, in composed Unicode and with `/` between folders.
    name: str


@frozen
class Flaw:
    """A problem with one image, or with a line of a captions file that belongs to none."""

    problem: Problem
    image: str | None = None


def one_per_image(flaws: Iterable[Flaw]) -> list[Flaw]:
    """The flaws, all those of an image merged into its first: one image is unusable, whatever the number of reasons."""
    merged: dict[object, Flaw] = {}
    for number, flaw in enumerate(flaws):
        key: object = number if flaw.image is None else flaw.image
        first = merged.setdefault(key, flaw).problem
        if first is not flaw.problem:
            further = ("see also", f"{flaw.problem.where}  {flaw.problem.message}")
            merged[key] = evolve(flaw, problem=evolve(first, notes=(*first.notes, further, *flaw.problem.notes)))
    return list(merged.values())


def image_name(path: Path, name: str) -> tuple[str, str, Place]:
    """How a problem describes an image, the bare name of its sample, and where it is stored."""
    return f"image `{name}`", name, Place(str(path))


def stem(name: str) -> str:
    """An image's name without its suffix, which it shares with its caption: the key that it would have in a shard."""
    return PurePosixPath(name).with_suffix("").as_posix()


def list_files(root: Path, problems: list[Problem]) -> dict[str, str]:
    """Every file below `root` that is not hidden: its name in composed Unicode, and its name on disk.

    Names are relative to `root`, with `/` between folders. (macOS stores `é` as two characters, so that a name copied
    from elsewhere is another string.)
    """

    def report(error: OSError) -> None:
        message = f"cannot read folder `{error.filename}`: {error.strerror}"
        problems.append(Problem(message, str(error.filename), code="unreadable-file"))

    names = {}
    for folder, inner, files in os.walk(root, onerror=report):
        inner[:] = (name for name in inner if not name.startswith("."))
        for file in files:
            if not file.startswith("."):
                name = (Path(folder).relative_to(root) / file).as_posix()
                names[composed(name)] = name
    return dict(sorted(names.items()))


def composed(name: str) -> str:
    """The name in Unicode's composed form, in which names are compared."""
    return unicodedata.normalize("NFC", name)
