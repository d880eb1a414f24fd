"""Captions of a folder's images: lines of one file, or a text file beside each image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

from fluxflow_registry import Choices, Place, Problem

from ..captions import CaptionError, decode_caption, decode_utf8, without_byte_order_mark
from .files import Flaw, Sample, composed, stem

#: So many lines at most are reported with the nearest name: finding it takes long in a large folder.
LINES_WITH_CHOICES = 10


def from_file(
    root: Path,
    table: Path,
    files: Mapping[str, str] | None,
    images: Collection[str],
    problems: list[Problem],
    flaws: list[Flaw],
) -> list[Sample]:
    """The samples that the file `table` describes, sorted by name; `files` None: the folder does not exist.

    A line is `name<TAB>caption`; empty lines are ignored. Adds to `problems` what is wrong with the file, and to
    `flaws` what is wrong with a line or with one image.
    """
    lines: dict[str, Place] = {}
    captions: dict[str, str] = {}
    for where, line in _lines(table, problems, flaws):
        problem = _add_line(where, line, files, lines, captions, flaws)
        if problem is not None:
            flaws.append(Flaw(problem))
    if table.is_file() and files is not None:
        for name in sorted(set(images) - lines.keys()):
            message, at = f"image `{name}` has no caption in `{table}`", str(root / name)
            flaws.append(Flaw(Problem(message, at, code="missing-caption", subject=name), name))
    return [Sample(root / (files or {})[name], captions[name], name) for name in sorted(captions)]


def _add_line(
    where: Place,
    line: str,
    files: Mapping[str, str] | None,
    lines: dict[str, Place],
    captions: dict[str, str],
    flaws: Collection[Flaw],
) -> Problem | None:
    """Add one line to `lines` and `captions`, or return what is wrong with it."""
    written, tab, text = line.partition("\t")
    written, caption = written.strip(), " ".join(text.split())
    if not tab or not written:
        message = "the line has no image name before the tab" if tab else "the line has no tab between name and caption"
        return Problem(message, where, (("received", _shortened(line.strip())),), code="malformed-line")
    if _leads_out(written):
        message = f"image `{written}` is outside the folder"
        return Problem(message, where, code="malformed-line", subject=written)
    name = composed(PurePosixPath(written).as_posix())
    if name in lines:
        notes = (("see also", lines[name]),)
        return Problem(f"image `{written}` has two captions", where, notes, code="duplicate-name", subject=written)
    lines[name] = where
    if not caption:
        return Problem(f"the caption of image `{written}` is empty", where, code="missing-caption", subject=written)
    if files is None:
        return None
    if name not in files:
        similar = get_close_matches(name, files) if len(flaws) < LINES_WITH_CHOICES else []
        choices = Choices.of(name, similar) if similar else None
        message = f"image `{written}` does not exist in the folder"
        return Problem(message, where, code="missing-file", subject=written, choices=choices)
    captions[name] = caption
    return None


def _leads_out(name: str) -> bool:
    return any(".." in path.parts or path.is_absolute() for path in (PurePosixPath(name), PureWindowsPath(name)))


def _shortened(line: str) -> str:
    return line if len(line) <= 60 else line[:57] + "..."


def _lines(table: Path, problems: list[Problem], flaws: list[Flaw]) -> Iterator[tuple[Place, str]]:
    """The lines that are not empty, each with its location."""
    file = f"captions file `{table.name}`"
    try:
        content = without_byte_order_mark(table.read_bytes())
    except FileNotFoundError:
        problems.append(Problem(f"{file} does not exist", str(table), code="missing-file"))
        return
    except (OSError, CaptionError) as error:
        message = f"{file} {error}" if isinstance(error, CaptionError) else f"cannot read {file}: {error.strerror}"
        problems.append(Problem(message, str(table), code="unreadable-file"))
        return
    for number, raw in enumerate(content.split(b"\n"), start=1):
        where = Place(str(table), number)
        try:
            line = decode_utf8(raw).rstrip("\r")
        except CaptionError as error:
            flaws.append(Flaw(Problem(f"the line {error}", where, code="malformed-line")))
            continue
        if line.strip():
            yield where, line


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
