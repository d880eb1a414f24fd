"""Captions files: which images of a folder they name, with which captions; lines with a tab, CSV, or JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from attrs import Factory, define, frozen

from fluxflow_registry import Choices, DataError, Place, Problem

from ..captions import CaptionError, decode_utf8, without_byte_order_mark
from ..files import TABLE_BYTES, read_limited, why_missing
from .samples import Flaw, Sample, composed, is_image, stem

#: The keys of JSON, and the columns of a table, under which datasets keep names and captions; the first is read.
NAME_KEYS = (
    "file_name", "filename", "file", "file_path", "filepath", "path", "image", "image_path", "image_name", "image_file",
    "img", "img_path", "name",
)  # fmt: skip
CAPTION_KEYS = ("caption", "captions", "text", "texts", "prompt", "description", "sentence", "sentences", "comment")

#: What separates the columns of a table with a header, in the order in which it is looked for.
SEPARATORS = ("\t", ",", ";", "|")

#: What a header calls a column: a word, or several joined by `_`. Names of images have dots, and captions more words.
COLUMN = re.compile(r"[^\W\d]\w*")

#: The first line is looked at for a header up to so many bytes.
LONGEST_HEADER = 1 << 16

#: So many lines at most are reported with the nearest name: finding it takes long in a large folder.
LINES_WITH_CHOICES = 10


@frozen
class Row:
    """What one line, or one entry, says: a name with its captions, or what is wrong, as the predicate of a sentence."""

    where: Place
    name: str = ""
    captions: Sequence[str] = ()
    wrong: str = ""
    received: str = ""


def read_captions_file(
    root: Path, file: Path, files: Mapping[str, str] | None, taken: set[tuple[str, str]], flaws: list[Flaw]
) -> list[Sample]:
    """The samples that a captions file describes; `files` None: the folder is missing.

    Adds to `taken` each image with each of its captions, of which a second one is ignored, and to `flaws` what is wrong
    with a line. Raises DataError for a file that cannot be read, or has no line as it should be.
    """
    name = f"captions file `{file.name}`"
    try:
        content = without_byte_order_mark(read_limited(file, TABLE_BYTES))
    except FileNotFoundError:
        raise DataError(f"{name} {why_missing(file)}", str(file), code="missing-file") from None
    except CaptionError as error:
        raise DataError(f"{name} {error}", str(file), code="unreadable-file") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}", str(file), code="unreadable-file") from None
    named = _Names.of(root, file.parent, files, taken)
    wrong: list[Problem] = []
    for row in _rows(content, file, named):
        if row.wrong:
            received = [("received", _shortened(row.received))] if row.received else []
            # Lines that lack the same are one problem.
            subject, message = row.wrong.partition(" (")[0], f"{_line(row.where)} {row.wrong}"
            wrong.append(Problem(message, row.where, received, code="malformed-line", subject=subject))
        else:
            wrong += named.add(row, with_choices=len(flaws) + len(wrong) < LINES_WITH_CHOICES)
    if len(wrong) > 1 and not named.samples and (files is not None or not named.rows):
        raise DataError(_nothing(name, file, wrong))
    flaws += map(Flaw, wrong)
    return named.samples


def _nothing(name: str, file: Path, wrong: Sequence[Problem]) -> Problem:
    """One problem for a file of which no line can be used, in place of one for each line."""
    hint = (
        "write lines `name<TAB>caption`, CSV or JSON lines with the keys `file_name` and `caption`; "
        "names are relative to `path` or to the captions file"
    )
    notes = (("cause", f"{wrong[0].message}; {len(wrong):,} lines have such problems"), ("hint", hint))
    message = f"{name} describes no image of the folder"
    return Problem(message, wrong[0].where or str(file), notes, code=wrong[0].code, subject=file.name)


def _line(where: Place) -> str:
    name = PurePosixPath(where.file).name
    return f"line {where.line} of `{name}`" if where.line else f"an entry of `{name}`"


def _rows(content: bytes, file: Path, named: _Names) -> Iterator[Row]:
    """The rows of a captions file, in the form that its suffix or its first line announces.

    Raises DataError for a header without a known column of names or of captions, whose lines would be misread.
    """
    suffix = file.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(content, str(file))
    if suffix == ".json":
        try:
            return _json_entries(json.loads(content), Place(str(file)))
        except (ValueError, RecursionError):  # often lines of JSON
            return _json_lines(content, str(file))
    first = content[:LONGEST_HEADER].split(b"\n", 1)[0].decode("utf-8", "replace")
    for separator in SEPARATORS:
        columns = Columns.of_header(first, separator)
        if columns is not None:
            return _table(content, str(file), columns)
    for separator in SEPARATORS:
        unknown = _unknown_header(first, separator)
        if unknown and named.files is not None and not any(map(named.has, unknown)):
            raise DataError(_unknown_columns(unknown, file))
    if suffix == ".csv":
        return _table(content, str(file), Columns(next((each for each in SEPARATORS if each in first), ",")))
    return _tab_lines(content, str(file))


@frozen
class Columns:
    """The columns of a table: what separates them, and which hold name and caption."""

    separator: str
    name: int = 0
    caption: int = 1
    number: int = 2
    header: bool = False

    @classmethod
    def of_header(cls, line: str, separator: str) -> Columns | None:
        """The columns that a header names; None for any other line."""
        cells = [cell.replace(" ", "_") for cell in _header_cells(line, separator)]
        name, caption = (next((key for key in keys if key in cells), None) for keys in (NAME_KEYS, CAPTION_KEYS))
        if name is None or caption is None:
            return None
        return cls(separator, cells.index(name), cells.index(caption), len(cells), header=True)


def _header_cells(line: str, separator: str) -> list[str]:
    """The names of the columns, if the line is a header; with spaces in those of several words."""
    return [cell.strip(' \t\r"').lower() for cell in line.split(separator)]


def _unknown_header(line: str, separator: str) -> list[str]:
    """The columns of a line that looks like a header: several different words; empty for any other line.

    A word of several parts (`File Name`, which might be a caption) counts only beside a column that is known.
    """
    words = [cell for cell in _header_cells(line, separator) if cell]
    cells = [cell.replace(" ", "_") for cell in words]
    alike = len(set(cells)) == len(cells) > 1 and all(map(COLUMN.fullmatch, cells))
    known = not {*NAME_KEYS, *CAPTION_KEYS}.isdisjoint(cells)
    return cells if alike and (known or not any(" " in word for word in words)) else []


def _unknown_columns(columns: Sequence[str], file: Path) -> Problem:
    """The problem of a header in which the column of names or that of captions is not known."""
    wanted = {"image names": NAME_KEYS, "captions": CAPTION_KEYS}
    missing = [what for what, keys in wanted.items() if set(keys).isdisjoint(columns)]
    hints = [f"name the column of {what} one of {', '.join(wanted[what])}" for what in missing]
    message = f"the header of captions file `{file.name}` has no known column of {' or of '.join(missing)}"
    notes = (("received", f"the columns {', '.join(columns)}"), ("hint", "; ".join(hints)))
    return Problem(message, Place(str(file), 1), notes, code="missing-key", subject=file.name)


def _tab_lines(content: bytes, file: str) -> Iterator[Row]:
    """Lines `name<TAB>caption`, in which quotes mean themselves."""
    for number, raw in enumerate(content.split(b"\n"), start=1):
        where = Place(file, number)
        try:
            line = decode_utf8(raw)
        except CaptionError as error:
            yield Row(where, wrong=str(error))
            continue
        name, tab, caption = line.partition("\t")
        if not line.strip():
            continue
        if tab and name.strip():
            yield Row(where, name, [caption])
        else:
            missing = "image name before the tab" if tab else "tab between name and caption"
            yield Row(where, wrong=f"has no {missing}", received=line.strip())


def _table(content: bytes, file: str, columns: Columns) -> Iterator[Row]:
    """The rows of a table. Cells may be quoted, unless tabs separate them; each line that cannot be read is one."""
    quoted = columns.separator != "\t"
    text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    rows = csv.reader(text, delimiter=columns.separator, quoting=0 if quoted else 3, strict=True)
    line = 0
    while True:
        start = line + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # a quote that is never closed takes all lines up to the end
            line = max(start, rows.line_num)
            yield from (Row(Place(file, each), wrong=f"cannot be read: {error}") for each in range(start, line + 1))
            continue
        line = rows.line_num
        if (columns.header and start == 1) or not any(cell.strip() for cell in cells):
            continue
        yield _table_row(cells, columns, Place(file, start))


def _table_row(cells: Sequence[str], columns: Columns, where: Place) -> Row:
    received = columns.separator.join(cells)
    if any("\udc80" <= character <= "\udcff" for character in received):
        return Row(where, wrong="is not UTF-8")
    if len(cells) <= columns.name or not cells[columns.name].strip():
        return Row(where, wrong="has no image name", received=received)
    if len(cells) <= columns.caption:
        return Row(where, wrong="has no caption", received=received)
    caption = cells[columns.caption]
    if len(cells) > columns.number:
        if columns.caption != columns.number - 1:
            wrong = f"has {len(cells)} cells, but there are {columns.number} columns"
            return Row(where, wrong=wrong, received=received)
        caption = columns.separator.join(cells[columns.caption :])  # it has separators, and is not quoted
    return Row(where, cells[columns.name], [caption])


def _json_lines(content: bytes, file: str) -> Iterator[Row]:
    """One mapping on each line."""
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = Place(file, number)
        try:
            value = json.loads(decode_utf8(raw))
        except CaptionError as error:
            yield Row(where, wrong=str(error))
        except (ValueError, RecursionError):
            yield Row(where, wrong="is not JSON", received=raw.decode("utf-8", "replace").strip())
        else:
            yield _json_row(value, where)


def _json_entries(value: Any, where: Place) -> Iterator[Row]:
    """A list of mappings, or a mapping from names to captions or to mappings with a caption."""
    if isinstance(value, list):
        yield from (_json_row(entry, where) for entry in value)
    elif isinstance(value, dict) and not _is_one_row(value):
        for name, entry in value.items():
            described = entry if isinstance(entry, dict) else {CAPTION_KEYS[0]: entry}
            yield _json_row({**described, NAME_KEYS[0]: name}, where)
    else:
        yield _json_row(value, where)


def _is_one_row(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is one row, even a wrong one, and not one of rows by name."""
    lower = {key.lower(): each for key, each in value.items()}
    named = any(isinstance(lower.get(key), str) for key in NAME_KEYS)
    return named and any(key in lower and not isinstance(lower[key], dict) for key in CAPTION_KEYS)


def _json_row(value: Any, where: Place) -> Row:
    """The row of a mapping with a name and a caption, or a list of captions."""
    if not isinstance(value, dict):
        return Row(where, wrong="is not a mapping", received=json.dumps(value))
    lower = {key.lower(): each for key, each in reversed(value.items())}
    name = next((lower[key] for key in NAME_KEYS if isinstance(lower.get(key), str) and lower[key].strip()), None)
    captions = next((lower[key] for key in CAPTION_KEYS if isinstance(lower.get(key), (str, list))), None)
    captions = [captions] if isinstance(captions, str) else captions
    if name is None:
        return _lacking(lower, "an image name", NAME_KEYS, where)
    if captions is None or not all(isinstance(caption, str) for caption in captions):
        return _lacking(lower, "a caption", CAPTION_KEYS, where)
    if any("\ud800" <= character <= "\udfff" for text in (name, *captions) for character in text):
        return Row(where, wrong="has an unpaired surrogate")
    return Row(where, name, captions)


def _lacking(value: Mapping[str, Any], what: str, keys: Sequence[str], where: Place) -> Row:
    """A mapping without a name or without captions: no key for it, or one whose value is not text."""
    key = next((key for key in keys if key in value), None)
    if key is None:
        wrong = f"has no {what.split(' ', 1)[1]}: expected a key such as `{keys[0]}`"
        return Row(where, wrong=wrong, received=", ".join(value))
    flaw = "empty" if isinstance(value[key], str) else "not text"
    return Row(where, wrong=f"has {what} that is {flaw}", received=f"`{key}`: {json.dumps(value[key])}")


@define
class _Names:
    """The images that the rows of a captions file name, each with its captions."""

    root: Path
    #: The folder and that of the captions file, to either of which names may be relative.
    bases: tuple[str, str]
    files: Mapping[str, str] | None
    taken: set[tuple[str, str]]
    #: The number of rows that name an image, whether it exists or not.
    rows: int = 0
    samples: list[Sample] = Factory(list)
    _stems: dict[str, list[str]] = Factory(dict)

    @classmethod
    def of(cls, root: Path, folder: Path, files: Mapping[str, str] | None, taken: set[tuple[str, str]]) -> _Names:
        """Before the first row of a captions file in `folder`."""
        return cls(root, (os.path.abspath(root), os.path.abspath(folder)), files, taken)

    def add(self, row: Row, with_choices: bool) -> Iterator[Problem]:
        """Add the samples of a row; yields what is wrong with it."""
        written, where = row.name.strip(), row.where
        name = self._name(written)
        if name is None:
            message = f"image `{written}` is outside the folder"
            yield Problem(message, where, code="malformed-line", subject=written)
            return
        self.rows += 1
        captions = [caption for text in row.captions if (caption := " ".join(text.split()))]
        if not captions:
            message = f"the caption of image `{written}` is empty"
            yield Problem(message, where, code="missing-caption", subject=written)
        elif self.files is not None and name not in self.files:
            if several := self._several(name):
                found = " and ".join(f"`{each}`" for each in several)
                message = f"image `{written}` is ambiguous: the folder has {found}"
                hint = ("hint", "write the name with its suffix")
                yield Problem(message, where, [hint], code="ambiguous", subject=written)
                return
            similar = get_close_matches(name, self.files) if with_choices else []
            choices = Choices.of(name, similar) if similar else None
            message = f"image `{written}` does not exist in the folder"
            yield Problem(message, where, code="missing-file", subject=written, choices=choices)
        elif self.files is not None:
            for caption in captions:
                if (name, caption) not in self.taken:
                    self.taken.add((name, caption))
                    self.samples.append(Sample(self.root / self.files[name], caption, name))

    def has(self, written: str) -> bool:
        """Whether a name is that of an image of the folder."""
        return self._name(written) in (self.files or {})

    def _name(self, written: str) -> str | None:
        """The name below the folder of the image that is meant, or of none; None: it would be elsewhere."""
        files = self.files or {}
        direct = composed(PurePosixPath(written).as_posix())
        if direct in files:
            return direct
        if PureWindowsPath(written).is_absolute():
            return None
        names = [composed(name) for base in self.bases if (name := self._below(base, written)) is not None]
        forms = [*names, *(name.replace("\\", "/") for name in names)]
        for name in forms:
            if name in files:
                return name
            if (image := self._with_suffix(name)) is not None:
                return image
        return next(filter(self._several, forms), names[0]) if names else None

    def _below(self, base: str, written: str) -> str | None:
        """The name below the folder of a path that is relative to `base`; None if it is not below it."""
        inner = os.path.relpath(os.path.join(base, written), self.bases[0])
        return None if inner.split(os.sep, 1)[0] == os.pardir else Path(inner).as_posix()

    def _with_suffix(self, name: str) -> str | None:
        """The image that has this name and a suffix, unless there are several."""
        several = self._several(name)
        return several[0] if len(several) == 1 else None

    def _several(self, name: str) -> list[str]:
        """The images that have this name and a suffix."""
        if not self._stems:
            for each in self.files or ():
                if is_image(each):
                    self._stems.setdefault(stem(each), []).append(each)
        return self._stems.get(name, [])


def _shortened(line: str) -> str:
    return line if len(line) <= 60 else line[:57] + "..."
