"""The images of a folder with their captions: lines of one file, or a text file beside each image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

from attrs import Factory, define, evolve, frozen

from fluxflow_registry import Choices, DataError, Place, Problem

from ..captions import CaptionError, decode_caption, decode_utf8, without_byte_order_mark

#: Suffixes of images, in any case.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

#: So many lines at most are reported with the nearest name: finding it takes long in a large folder.
LINES_WITH_CHOICES = 10


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


def from_file(
    root: Path, table: Path, files: Mapping[str, str] | None, images: Collection[str], flaws: list[Flaw]
) -> list[Sample]:
    """The samples in the file `table`, sorted by name; `files` None: the folder is missing.

    A line is `name<TAB>caption`; empty lines are ignored. Adds to `flaws` what is wrong with a line or with one image;
    raises DataError for a file that cannot be read.
    """
    name = f"captions file `{table.name}`"
    try:
        content = without_byte_order_mark(table.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{name} does not exist", str(table), code="missing-file") from None
    except CaptionError as error:
        raise DataError(f"{name} {error}", str(table), code="unreadable-file") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}", str(table), code="unreadable-file") from None
    lines = _Lines(files)
    for number, raw in enumerate(content.split(b"\n"), start=1):
        problem = lines.add(raw, Place(str(table), number), with_choices=len(flaws) < LINES_WITH_CHOICES)
        if problem is not None:
            flaws.append(Flaw(problem))
    for image in sorted(set(images) - lines.places.keys()):
        message = f"image `{image}` has no caption in `{table}`"
        flaws.append(Flaw(Problem(message, str(root / image), code="missing-caption", subject=image), image))
    return [Sample(root / (files or {})[image], lines.captions[image], image) for image in sorted(lines.captions)]


@define
class _Lines:
    """The lines of a captions file: where each image is named, and the captions of those that exist."""

    files: Mapping[str, str] | None
    places: dict[str, Place] = Factory(dict)
    captions: dict[str, str] = Factory(dict)

    def add(self, raw: bytes, where: Place, with_choices: bool) -> Problem | None:
        """Add a line that is not empty, or return what is wrong with it."""
        name = f"line {where.line} of `{PurePosixPath(where.file).name}`"
        try:
            line = decode_utf8(raw)
        except CaptionError as error:
            return Problem(f"{name} {error}", where, code="malformed-line")
        if not line.strip():
            return None
        written, tab, text = line.partition("\t")
        written, caption = written.strip(), " ".join(text.split())
        if not tab or not written:
            what = "image name before the tab" if tab else "tab between name and caption"
            received = [("received", _shortened(line.strip()))]
            return Problem(f"{name} has no {what}", where, received, code="malformed-line")
        if _leads_out(written):
            return Problem(f"image `{written}` is outside the folder", where, code="malformed-line", subject=written)
        name = composed(PurePosixPath(written).as_posix())
        if name in self.places:
            first = ("see also", self.places[name])
            message = f"image `{written}` has two captions"
            return Problem(message, where, (first,), code="duplicate-name", subject=written)
        self.places[name] = where
        if not caption:
            return Problem(f"the caption of image `{written}` is empty", where, code="missing-caption", subject=written)
        if self.files is not None and name not in self.files:
            similar = get_close_matches(name, self.files) if with_choices else []
            choices = Choices.of(name, similar) if similar else None
            message = f"image `{written}` does not exist in the folder"
            return Problem(message, where, code="missing-file", subject=written, choices=choices)
        if self.files is not None:
            self.captions[name] = caption
        return None


def _leads_out(name: str) -> bool:
    return any(".." in path.parts or path.is_absolute() for path in (PurePosixPath(name), PureWindowsPath(name)))


def _shortened(line: str) -> str:
    return line if len(line) <= 60 else line[:57] + "..."


def from_text_files(
    root: Path, files: Mapping[str, str], images: Collection[str], flaws: list[Flaw], uncaptioned: bool = False
) -> list[Sample]:
    """The samples with the captions beside them: `a.txt` for `a.jpg`; adds to `flaws` what is wrong.

    Where images may be `uncaptioned`, one without a text file has an empty caption.
    """
    samples = []
    for name in sorted(images):
        missing = f"{stem(name)}.txt" not in files
        caption = "" if missing and uncaptioned else _read_caption(root, files, name)
        if isinstance(caption, Problem):
            flaws.append(Flaw(caption, name))
        else:
            samples.append(Sample(root / files[name], caption, name))
    return samples


def _read_caption(root: Path, files: Mapping[str, str], name: str) -> str | Problem:
    """The caption beside an image, or why there is none."""
    text = f"{stem(name)}.txt"
    if text not in files:
        hint = f"add `{root / text}`, or set `uncaptioned: true` if no captions are needed"
        message = f"image `{name}` has no caption"
        return Problem(message, str(root / name), (("hint", hint),), code="missing-caption", subject=name)
    path, code = root / files[text], "unreadable-file"
    try:
        caption = decode_caption(path.read_bytes())
        if caption:
            return caption
        code, message = "missing-caption", f"the caption of image `{name}` is empty"
    except CaptionError as error:
        message = f"the caption of image `{name}` {error}"
    except OSError as error:
        message = f"cannot read the caption of image `{name}`: {error.strerror}"
    return Problem(message, str(path), code=code, subject=name)
