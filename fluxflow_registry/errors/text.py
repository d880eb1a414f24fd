"""Text for a terminal or a page, and values as JSON: both are built once, at the edge."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

#: A message longer than this is shortened: nobody reads such a quotation to its end.
LONGEST = 2000

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def printable(text: str) -> str:
    r"""The text on one line, control characters escaped: what a recipe quotes must not steer a terminal.

    Bytes of a file's name that are not UTF-8, which Python keeps as surrogates, are escaped as bytes: `\xff`.
    """
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return "".join(c if c.isprintable() else _escaped(c) for c in shown)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Labelled rows, aligned; the lines of a longer text stand under each other."""
    width = max((len(label) for label, _ in rows), default=0)
    gap = "\n" + " " * (width + 6)
    return [f"    {label:<{width}}  {gap.join(map(printable, text.splitlines()))}" for label, text in rows]


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 epoch`, `2 epochs`, `2 batches`."""
    ending = "" if number == 1 else "es" if noun.endswith("tch") else "s"
    return f"{number:,} {noun}{ending}"


def one_line(error: BaseException) -> str:
    """An exception as one line: its class and the first line of its message, without addresses of objects."""
    text = _ADDRESS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def to_json(value: Any, exact: bool = False) -> Any:
    """The value as JSON can hold it, at any depth: tuples as lists, paths as strings, numbers that are finite.

    NaN and the infinities become null or, with `exact`, the strings that `float` reads back.
    """
    if isinstance(value, Mapping):
        return {key: to_json(part, exact) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part, exact) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if exact else None
    return str(value) if isinstance(value, PurePath) else value
