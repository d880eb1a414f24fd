"""From what a recipe says of shards to the paths of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from itertools import product
from math import prod

from fluxflow_registry import Problem

from ..folder.files import shown
from .remote.requests import is_remote, refuse_url, told

#: A range of braces that stands for more is taken for a slip.
MOST = 100_000

#: How many missing shards are named.
NAMED = 24

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def refuse(stated: str) -> None:
    """Raise ValueError for an entry of `shards` that cannot be meant."""
    if not stated:
        raise ValueError("`shards` has an empty entry")
    if stated.startswith("pipe:"):
        raise ValueError(
            "`shards` names a pipe; no command is run by a recipe: name a URL, or copy the shards to a folder"
        )
    if _SCHEME.match(stated):
        if not is_remote(stated):
            scheme = stated.partition(":")[0]
            raise ValueError(f"`shards` names a `{scheme}:`; files, http: and https: are read")
        refuse_url(stated)
    count = prod(len(choices) for choices in _parts(stated))
    if count > MOST:
        raise ValueError(f"`{stated}` stands for {count:,} shards; {MOST:,} at most")


def located(stated: Sequence[str], problems: list[Problem]) -> list[str]:
    """The paths of all shards in the order of the recipe; adds to `problems` what is not there."""
    known: set[str] = set()
    found: list[str] = []
    missing: list[str] = []
    for entry in stated:
        for path in _files(entry if is_remote(entry) else os.path.expanduser(entry), problems):
            if is_remote(path):
                if path in known:
                    problems.append(Problem("is named twice", told(path)))
                known.add(path)
                found.append(path)
                continue
            if os.path.abspath(path) in known:
                problems.append(Problem("is named twice", shown(path)))
            elif not os.path.exists(path):
                missing.append(path)
            elif not os.path.isfile(path):
                problems.append(Problem("is no file; shards are tar files", shown(path)))
            else:
                found.append(path)
            known.add(os.path.abspath(path))
    problems += [Problem("there is no such shard", shown(path)) for path in missing[:NAMED]]
    if len(missing) > NAMED:
        problems.append(Problem(f"{len(missing) - NAMED:,} more shards are not there", shown(missing[NAMED])))
    return found


def named(stated: str | Sequence[str]) -> set[str]:
    """The shards for which `shards` stands, each by the one name that it has however it is stated."""
    entries = [stated] if isinstance(stated, str) else stated
    found = {path for entry in entries for path in _files(entry if is_remote(entry) else os.path.expanduser(entry), [])}
    return {path if is_remote(path) else os.path.realpath(path) for path in found} | set(entries)


def _files(entry: str, problems: list[Problem]) -> Iterator[str]:
    """The paths for which an entry stands: braces multiply it, and `*`, `?` and `[...]` match what there is."""
    for path in expanded(entry):
        if is_remote(path) or not has_magic(path) or os.path.exists(path):
            yield path
            continue
        matching = sorted(glob(path, recursive=True))
        if not matching:
            problems.append(Problem("there is no such file", shown(path)))
        yield from matching


def expanded(entry: str) -> Iterator[str]:
    """An entry with each of its braces filled: `{08..10}` counts, `{a,b}` lists."""
    return map("".join, product(*_parts(entry)))


def _parts(entry: str) -> list[Sequence[str]]:
    """The pieces of an entry in order, each with what it may be."""
    pieces: list[Sequence[str]] = []
    for number, piece in enumerate(_BRACES.split(entry)):
        pieces.append(_choices(piece) if number % 2 else (piece,))
    return pieces


def _choices(inside: str) -> Sequence[str]:
    """What stands between two braces: numbers as wide as the widest that is written with zeros, or words."""
    counted = _RANGE.fullmatch(inside)
    if counted is None:
        return inside.split(",") if "," in inside else (f"{{{inside}}}",)
    first, last = counted.groups()
    count = abs(int(last) - int(first)) + 1
    if count > MOST:
        raise ValueError(f"`{{{inside}}}` stands for {count:,} shards; {MOST:,} at most")
    step = 1 if int(first) <= int(last) else -1
    zeros = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if zeros else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
