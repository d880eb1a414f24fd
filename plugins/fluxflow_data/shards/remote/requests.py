"""Shards on a web server: parts of them by ranged requests, with a token that goes to no other host."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from attrs import frozen

from fluxflow_registry import DataError, Problem

from ...folder.files import shown

#: Seconds without a byte after which a request is given up, and how often it is made anew.
TIMEOUT = 30.0
ATTEMPTS = 5

#: Seconds before the second attempt; each later one waits twice as long.
PAUSE = 0.5

#: The longest that a server's `Retry-After` is heeded, in seconds.
PATIENCE = 60.0

#: Bytes that are asked for at once where headers are read.
STRETCH = 1 << 16

#: Answers after which the same request may succeed.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Whose tokens are used where the recipe names no variable, and where they are looked for.
HUB = "huggingface.co"
HUB_TOKENS = ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN")

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


@frozen
class RemoteFile:
    """A file on a server: its length and a number that stands for its version (ETag, else Last-Modified)."""

    url: str
    token_env: str | None
    length: int | None
    version: int
    #: Whether the server gives parts of it.
    ranged: bool

    @property
    def state(self) -> tuple[int, int]:
        """Length and version, as a local file has length and time."""
        return self.length or 0, self.version


def is_remote(path: str) -> bool:
    """Whether a shard is one on a server."""
    return path.startswith(("http://", "https://"))


def told(url: str) -> str:
    """The URL as messages show it: without its query, which may hold a signature."""
    parts = urlsplit(url)
    return shown(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))


def refuse_url(url: str) -> None:
    """Raise ValueError for a URL that cannot be meant, without repeating a password in it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("`shards` holds a URL with a name or password: put a token into a variable, see `token_env`")
    if not parts.hostname:
        raise ValueError(f"`shards` names `{told(url)}`, which has no host")


def probe(url: str, token_env: str | None) -> RemoteFile:
    """Ask for the first bytes of a file, which tells all there is to know; raises DataError."""
    with _answer(url, token_env, (0, 1)) as answer:
        ranged = answer.status == 206
        stated = answer.headers.get("Content-Length")
        length = _range(answer, url)[2] if ranged else int(stated) if stated and stated.isdigit() else None
        return RemoteFile(url, token_env, length, _version(answer), ranged)


class Ahead:
    """Reads a file on a server a stretch at a time: headers lie close together where pictures are small."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.start = 0
        self.content = b""

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end, as `os.pread` gives them."""
        length = self.file.length or 0
        stop = min(offset + size, length)
        if not self.start <= offset <= stop <= self.start + len(self.content):
            self.start = offset
            self.content = ranged(self.file.url, self.file.token_env, offset, max(size, STRETCH), self.file.state)
        return self.content[offset - self.start : stop - self.start]


def ranged(url: str, token_env: str | None, offset: int, size: int, state: tuple[int, int]) -> bytes:
    """`size` bytes from `offset`, fewer at the end; raises DataError where the file is not of that `state` any more."""
    length, version = state
    stop = min(offset + size, length)
    if offset >= stop:
        return b""
    for attempt in range(ATTEMPTS):
        with _answer(url, token_env, (offset, stop)) as answer:
            if answer.status != 206:
                raise DataError(Problem("the server gives no parts of this file any more", told(url)))
            if _range(answer, url) != (offset, stop, length) or _version(answer) != version:
                message = "has changed since the dataset was opened; start again to read it anew"
                raise DataError(Problem(message, told(url)))
            content = _body(answer)
        if len(content) == stop - offset:
            return content
        wait(attempt)
    raise DataError(Problem(f"the server breaks off, {ATTEMPTS} times in a row", told(url)))


@contextmanager
def streamed(file: RemoteFile, offset: int) -> Iterator[HTTPResponse]:
    """The rest of a file from `offset` on, as it comes; raises DataError where there is another file now."""
    with _answer(file.url, file.token_env, (offset, None) if offset else None) as answer:
        if (offset and answer.status != 206) or _version(answer) != file.version:
            raise DataError(Problem("has changed while it was fetched; start again", told(file.url)))
        yield answer


def _body(answer: HTTPResponse) -> bytes:
    try:
        return answer.read()
    except (OSError, HTTPException):
        return b""


@contextmanager
def _answer(url: str, token_env: str | None, part: tuple[int, int | None] | None) -> Iterator[HTTPResponse]:
    """The answer to a request for a part of a file, or the whole; what may pass is tried again."""
    answer = _tried(url, token_env, part)
    try:
        yield answer
    finally:
        answer.close()


def _tried(url: str, token_env: str | None, part: tuple[int, int | None] | None) -> HTTPResponse:
    said = ""
    for attempt in range(ATTEMPTS):
        request = Request(url, headers={"User-Agent": "fluxflow-registry", "Accept-Encoding": "identity"})
        if part is not None:
            start, stop = part
            request.add_header("Range", f"bytes={start}-{'' if stop is None else stop - 1}")
        token = _token(url, token_env)
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        after: str | None = None
        try:
            answer: HTTPResponse = _opener(url, token).open(request, timeout=TIMEOUT)
            return answer
        except HTTPError as error:
            said, after = f"the server answers {error.code}", error.headers.get("Retry-After")
            error.close()
            if error.code not in PASSING:
                raise DataError(Problem(_refusal(error.code), told(url), _hint(error.code, url, token_env))) from None
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            said = f"no answer within {TIMEOUT:g} s" if isinstance(reason, TimeoutError) else f"not reached: {words}"
        if attempt + 1 < ATTEMPTS:
            wait(attempt, after)
    raise DataError(Problem(f"{said}, {ATTEMPTS} times in a row", told(url)))


def _opener(url: str, token: str | None) -> OpenerDirector:
    """What makes requests, by the environment's proxies where a server is not on this machine."""
    direct = [ProxyHandler({})] if _is_here(urlsplit(url).hostname or "") else []
    return build_opener(_Redirects(url, token), *direct)


def wait(attempt: int, after: str | None = None) -> None:
    """Pause before the next attempt, as long as the server asks for, or twice as long as the time before."""
    asked = float(after) if after and after.isdigit() else 0.0
    time.sleep(max(min(asked, PATIENCE), PAUSE * 2.0**attempt))


def _refusal(code: int) -> str:
    words = {
        401: "the server wants a token (401)",
        403: "the server refuses (403)",
        404: "there is no such shard (404)",
        410: "there is no such shard any more (410)",
        416: "is shorter than what is asked of it (416): it is empty, or has changed",
    }
    return words.get(code, f"the server answers {code}")


def _hint(code: int, url: str, token_env: str | None) -> tuple[tuple[str, str], ...]:
    """Where a token is looked for, and whether there was one; never what it is."""
    if code not in (401, 403, 404):
        return ()
    names = _variables(url, token_env)
    if not names:
        return (("token", "none was sent; `token_env: NAME` names the variable that holds one"),)
    held = [name for name in names if os.environ.get(name)]
    return (("token", f"sent, from {held[0]}" if held else f"none was sent: {' and '.join(names)} not set"),)


def _variables(url: str, token_env: str | None) -> tuple[str, ...]:
    """The variables that may hold the token for a host: the recipe's, or the Hub's own for the Hub alone."""
    if token_env is not None:
        return (token_env,)
    host = urlsplit(url).hostname or ""
    return HUB_TOKENS if host == HUB or host.endswith(f".{HUB}") else ()


def _token(url: str, token_env: str | None) -> str | None:
    """The token for a URL, from the environment alone; raises DataError rather than send it unencrypted."""
    for name in _variables(url, token_env):
        token = os.environ.get(name, "").strip()
        if not token:
            continue
        if not token.isascii() or not token.isprintable() or " " in token:
            raise DataError(Problem(f"the variable {name} holds no token: it has characters that none has", told(url)))
        if urlsplit(url).scheme != "https" and not _is_here(urlsplit(url).hostname or ""):
            message = f"the token in {name} would be sent unencrypted; use https, or take the variable away"
            raise DataError(Problem(message, told(url)))
        return token
    return None


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Redirects(HTTPRedirectHandler):
    """Follows redirects; the token goes along only where scheme, host and port stay the same."""

    def __init__(self, url: str, token: str | None) -> None:
        self.origin = urlsplit(url)[:2]
        self.token = token

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """Build the next request, from the headers that belong to no host."""
        if not is_remote(newurl):
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and self.token and urlsplit(newurl)[:2] == self.origin:
            following.add_unredirected_header("Authorization", f"Bearer {self.token}")
        return following


def _range(answer: HTTPResponse, url: str) -> tuple[int, int, int]:
    """From where to where the answer goes, and how long the whole is."""
    found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    if found is None:
        raise DataError(Problem("the server does not say which part it gives", told(url)))
    start, last, length = map(int, found.groups())
    return start, last + 1, length


def _version(answer: HTTPResponse) -> int:
    stated = answer.headers.get("ETag", "").removeprefix("W/") or answer.headers.get("Last-Modified", "")
    return int.from_bytes(blake2b(stated.encode(), digest_size=7).digest(), "big")
