"""Shards by path and URL: from the entries of `shards` in a recipe to all shards that they stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from ipaddress import ip_address
from itertools import product
from math import prod
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from fluxflow_registry import DataError, Problem, redact

from ..files import why_missing
from .hub import SCHEME, HubPath

#: A range in braces that stands for more shards is taken for a mistake.
MOST_SHARDS = 100_000

#: So many missing shards are reported by name.
REPORTED = 24

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

#: A path as far as it says where it is: the scheme and the host of a URL, even of a misspelled one.
_PLACE = re.compile(r"[^/\\]*:[/\\]*[^/\\?#]*")

#: What looks like a URL of a server.
_LIKE_URL = re.compile(r"(?is)https?:|.*://")

#: The parameters of signatures: of Amazon, Google and others, of CloudFront, of Azure.
_SIGNATURE = re.compile(
    r"(?i)x-(amz|goog|oss|cos|tos)-.*|signature|expires|policy|key-pair-id|(aws|oss)accesskeyid|googleaccessid|token"
    r"|sig|s[eprtv]|spr|sip|sk(oid|tid|t|e|s|v)"
)

#: What a URL does not contain.
_NOT_IN_URLS = re.compile(r"[^!-~]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def is_remote(path: str) -> bool:
    """Whether a shard is on a server."""
    return path.startswith(("http://", "https://"))


def public(path: str) -> str:
    """A path or URL without what may be a secret, such as the query of a URL."""
    return re.split("[?#]", redact(path), maxsplit=1)[0] if is_remote(path) else redact(path)


def unsigned(path: str) -> str:
    """A path as it is; a URL without its signature, which is another one each time that it is signed."""
    if not is_remote(path) or "?" not in path:
        return path
    parts = urlsplit(path)
    query = [(key, value) for key, value in parse_qsl(parts.query, True) if not _SIGNATURE.fullmatch(key)]
    return urlunsplit((*parts[:3], urlencode(query), ""))


def check_url(url: str) -> None:
    """Raise ValueError for a URL that cannot be read, without repeating a secret in it."""
    if not is_remote(url):
        scheme = _SCHEME.match(url)
        what = f"a `{scheme[1]}:` URL" if scheme else "what looks like a URL"
        raise ValueError(f"`shards` names {what}, but only files, http:, https: and hf: are supported")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("`shards` names a URL whose host or port is not valid") from None
    if "@" in parts.netloc:
        raise ValueError(
            "`shards` contains a URL with a user name or password: "
            "put a token into an environment variable and allow it for the host in FLUXFLOW_TOKENS"
        )
    if not host:
        raise ValueError(f"`shards` names the URL `{public(url)}`, which has no host")


def is_this_machine(url: str) -> bool:
    """Whether the host of a URL is the local machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shard_problem(path: str, predicate: str, code: str, notes: Sequence[tuple[str, str]] = ()) -> Problem:
    """A problem with one shard; the message is `shard`, its base name, and the predicate."""
    name = os.path.basename(public(path))
    return Problem(f"shard `{name}` {predicate}", public(path), notes, code=code, subject=name)


def check_entry(entry: str) -> None:
    """Raise ValueError for an entry of `shards` that names no shards."""
    if not entry:
        raise ValueError("`shards` has an empty entry")
    if "\0" in entry:
        raise ValueError("`shards` has an entry with a NUL character, which no path and no URL contains")
    if entry.startswith("pipe:"):
        raise ValueError(
            "`shards` names a pipe, but a recipe cannot run commands: use a URL, or copy the shards to a folder"
        )
    count = prod(len(choices) for choices in _pieces(entry))
    if count > MOST_SHARDS:
        raise ValueError(f"`{redact(entry)}` expands to {count:,} shards, more than {MOST_SHARDS:,}")
    if entry.startswith(SCHEME):
        HubPath.parse(entry)
        return
    places = dict.fromkeys(place[0] for path in expand_braces(entry) if (place := _PLACE.match(path)))
    urls = [place for place in places if _LIKE_URL.match(place)]
    for url in urls:
        check_url(url)
    if urls and "*" in entry.partition("?")[0]:
        raise ValueError(
            f"`shards` has a wildcard in `{public(entry)}`, but the files of a server cannot be listed: "
            "write a range such as `{000..012}`, or `hf://datasets/OWNER/NAME/*.tar` for the hub"
        )
    if urls and (wrong := _NOT_IN_URLS.search(entry)):
        character = f"U+{ord(wrong[0]):04X}"
        raise ValueError(f"`shards` names a URL with the character {character}: percent-encode it")
    if urls and "?" in entry and redact(entry) == entry:
        raise ValueError(f"`shards` names the URL `{public(entry)}`, whose query was removed: write it in full")


def find_shards(entries: Sequence[str], problems: list[Problem], token_env: str | None = None) -> list[str]:
    """The paths and URLs of all shards in the recipe's order; adds to `problems` what does not exist."""
    known: set[str] = set()
    shards: list[str] = []
    missing: list[str] = []
    for path in (path for entry in entries for path in _shards(entry, problems, token_env)):
        identity = path if is_remote(path) else os.path.abspath(path)
        if identity in known:
            problems.append(shard_problem(path, "is named twice", "duplicate-name"))
        elif not is_remote(path) and not os.path.exists(path):
            missing.append(path)
        elif not is_remote(path) and not os.path.isfile(path):
            problems.append(shard_problem(path, "is not a file: shards are tar files", "unreadable-file"))
        else:
            shards.append(path)
        known.add(identity)
    problems += [shard_problem(path, why_missing(path), "missing-file") for path in missing[:REPORTED]]
    if len(missing) > REPORTED:
        message = f"{len(missing) - REPORTED:,} more shards do not exist"
        problems.append(Problem(message, missing[REPORTED], code="missing-file"))
    return shards


def identities(entries: str | Sequence[str]) -> set[str]:
    """The shards that entries stand for, each under the one name that it has however it is written."""
    entries = [entries] if isinstance(entries, str) else entries
    local = [entry for entry in entries if not entry.startswith(SCHEME)]  # the hub is not asked for names
    paths = {path for entry in local for path in _shards(entry, [])}
    return {path if is_remote(path) else os.path.realpath(path) for path in paths} | set(entries)


def _shards(entry: str, problems: list[Problem], token_env: str | None = None) -> Iterator[str]:
    """The paths that an entry stands for: braces multiply it, and `*`, `?` and `[...]` match existing files."""
    for path in expand_braces(entry if is_remote(entry) else os.path.expanduser(entry)):
        if path.startswith(SCHEME):
            try:
                yield from HubPath.parse(path).urls(token_env)
            except DataError as error:
                problems += error.problems
            continue
        if is_remote(path) or not has_magic(path) or os.path.exists(path):
            yield path
            continue
        matching = sorted(glob(path, recursive=True))
        if not matching:
            problems.append(Problem(f"no file matches `{path}`", path, code="missing-file", subject=path))
        yield from matching


def expand_braces(entry: str) -> Iterator[str]:
    """An entry with its braces expanded: `{08..10}` counts, `{a,b}` lists."""
    return map("".join, product(*_pieces(entry)))


def _pieces(entry: str) -> list[Sequence[str]]:
    """The pieces of an entry in order, each with its choices."""
    return [_choices(piece) if number % 2 else (piece,) for number, piece in enumerate(_BRACES.split(entry))]


def _choices(inside: str) -> Sequence[str]:
    """What braces stand for: numbers, as wide as the widest that is written with zeros, or words."""
    counted = _RANGE.fullmatch(inside)
    if counted is None:
        return inside.split(",") if "," in inside else (f"{{{inside}}}",)
    first, last = counted.groups()
    count = abs(int(last) - int(first)) + 1
    if count > MOST_SHARDS:
        raise ValueError(f"`{{{inside}}}` expands to {count:,} shards, more than {MOST_SHARDS:,}")
    step = 1 if int(first) <= int(last) else -1
    zeros = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if zeros else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
