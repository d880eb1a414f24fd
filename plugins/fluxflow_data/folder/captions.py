"""Captions: lines of one file, or a text file beside each picture."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from fluxflow_registry import Problem

from .files import Flaw, Sample, composed, shown, stem

#: How many lines are reported with the nearest name: finding it takes long in a large folder.
HELPED = 10


def from_file(
    root: Path,
    table: Path,
    files: Mapping[str, str] | None,
    pictures: Collection[str],
    problems: list[Problem],
    flaws: list[Flaw],
) -> list[Sample]:
    """The samples that the file `table` describes, sorted by name; `files` None: the folder is not there.

    A line is `name<TAB>caption`; blank lines are ignored. Adds to `problems` what is wrong with the file, to
    `flaws` what is wrong with a line or with one picture.
    """
    first: dict[str, str] = {}
    captions: dict[str, str] = {}
    for where, line in _lines(table, problems, flaws):
        problem = _take(where, line, files, first, captions, flaws)
        if problem is not None:
            flaws.append(Flaw(problem))
    if table.is_file() and files is not None:
        for name in sorted(pictures):
            if name not in first:
                flaws.append(Flaw(Problem(f"has no caption in {shown(table)}", shown(root / name)), name))
    return [Sample(root / (files or {})[name], captions[name], name) for name in sorted(captions)]


def _take(
    where: str,
    line: str,
    files: Mapping[str, str] | None,
    first: dict[str, str],
    captions: dict[str, str],
    flaws: Collection[Flaw],
) -> Problem | None:
    """Enter one line into `captions`, or give what is wrong with it."""
    stated, tab, text = line.partition("\t")
    stated, caption = stated.strip(), " ".join(text.split())
    if not tab:
        return Problem("there is no tab between name and caption", where, (("line", _cut(line)),))
    if not stated:
        return Problem("there is no name before the tab", where, (("line", _cut(line)),))
    if _leads_out(stated):
        return Problem(f"`{shown(stated)}` leads out of the folder", where)
    name = composed(PurePosixPath(stated).as_posix())
    if name in first:
        return Problem(f"`{shown(stated)}` has a caption already", where, (("first", first[name]),))
    first[name] = where
    if not caption:
        return Problem(f"the caption of `{shown(stated)}` is empty", where)
    if files is None:
        return None
    if name not in files:
        return Problem(f"there is no file `{shown(stated)}` in the folder", where, _nearest(name, files, flaws))
    captions[name] = caption
    return None


def _nearest(name: str, files: Mapping[str, str], flaws: Collection[Flaw]) -> tuple[tuple[str, str], ...]:
    from difflib import get_close_matches

    close = get_close_matches(name, files, n=1) if len(flaws) < HELPED else []
    return (("nearest", shown(close[0])),) if close else ()


def _leads_out(name: str) -> bool:
    return (
        ".." in PurePosixPath(name).parts
        or ".." in PureWindowsPath(name).parts
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).is_absolute()
    )


def _cut(line: str) -> str:
    text = shown(line.strip())
    return text if len(text) <= 60 else text[:57] + "..."


def _lines(table: Path, problems: list[Problem], flaws: list[Flaw]) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place `captions.txt:12`."""
    content = _read(table, "there is no such captions file", problems)
    if content is None:
        return
    try:
        content = _unmarked(content)
    except ValueError as error:
        problems.append(Problem(str(error), shown(table)))
        return
    for number, raw in enumerate(content.split(b"\n"), start=1):
        where = f"{shown(table)}:{number}"
        try:
            line = raw.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            flaws.append(Flaw(Problem(f"the line is not UTF-8, from byte {error.start + 1} on", where)))
            continue
        if line.strip():
            yield where, line


def from_sidecars(
    root: Path, files: Mapping[str, str], pictures: Collection[str], flaws: list[Flaw], uncaptioned: bool = False
) -> list[Sample]:
    """The samples with the captions beside them: `a.txt` for `a.jpg`; adds to `flaws` what is wrong.

    Where pictures may be `uncaptioned`, one without a text file has the empty caption.
    """
    samples = []
    for name in sorted(pictures):
        missing = f"{stem(name)}.txt" not in files
        found = "" if missing and uncaptioned else _beside(root, files, name)
        if isinstance(found, Problem):
            flaws.append(Flaw(found, name))
        else:
            samples.append(Sample(root / files[name], found, name))
    return samples


def _beside(root: Path, files: Mapping[str, str], name: str) -> str | Problem:
    """The caption beside a picture, or why there is none."""
    beside = f"{stem(name)}.txt"
    if beside not in files:
        hint = ("or else", "`uncaptioned: true`, where no captions are needed")
        return Problem("has no caption", shown(root / name), (("expected", shown(root / beside)), hint))
    path, wrong = root / files[beside], list[Problem]()
    content = _read(path, "has gone", wrong)
    if content is None:
        return wrong[0]
    try:
        return text_of(content) or Problem("the caption is empty", shown(path))
    except ValueError as error:
        return Problem(str(error), shown(path))


def text_of(content: bytes) -> str:
    """The caption in the bytes of a text file, its words one space apart; raises ValueError in a user's words."""
    content = _unmarked(content)
    try:
        return " ".join(content.decode("utf-8").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8, from byte {error.start + 1} on") from None


def _unmarked(content: bytes) -> bytes:
    """A text without its byte order mark; raises ValueError where that is another encoding's."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16; captions are read as UTF-8")
    return content.removeprefix(b"\xef\xbb\xbf")


def _read(path: Path, missing: str, problems: list[Problem]) -> bytes | None:
    """The bytes of a text file, or None after telling why not."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(Problem(missing, shown(path)))
    except OSError as error:
        problems.append(Problem(f"cannot be read: {error.strerror}", shown(path)))
    return None
