"""Secrets in text: the queries and user info of URLs, which no message, file of a run or exception contains."""

from __future__ import annotations

import re
from typing import TypeVar

T = TypeVar("T")

#: What is shown in the place of a secret.
HIDDEN = "***"

#: Where the host of a URL begins, however it is misspelled: `http:/h`, `{http,x}://h`, `https:\\h`.
_HOST = re.compile(r":[\\/]+")

#: A host, perhaps with its port.
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:@]*)(:[0-9]*)?")

#: Where a query or a fragment begins that is not hidden yet.
_QUERY = re.compile(r"[?#](?!\*{3}(?:$|[^\w*%&=+-]))")

#: The same without a URL: `h/a.tar?signature=...`, as libraries quote it.
_BARE_QUERY = re.compile(r"\?(?=[^\s=?]{1,200}=)")

#: User info without slashes before it: `user:password@h`.
_USER = re.compile(r"(?<![^\s/\\@:`'\"])[^\s/\\@:`'\"]+:[^\s/\\@`'\"]+@")

#: A value under a name that secrets have: `X-Amz-Signature=...`, `--set datasets.x.token=...`, `{token_env: ...}`.
_NAMED = re.compile(
    r"""(?i)(?<![a-z])((?:token|secret|password|credential|signature|sig|api_?key|access_?key)"""
    r"""(?:(?:_env)?=|_env:\s*)[\[{'"]*)[^\s&`'",})\]]+"""
)

#: More URLs in one string are hidden altogether.
MOST = 100


def redact(value: T) -> T:
    """The value with the secrets in its strings hidden, at any depth: a string may be a URL, or a sentence with one.

    A URL loses its query, its fragment and its user info. Where a malformed one ends cannot be known: then everything
    is hidden up to the last backtick or, if the URL is not in backticks, up to the end of the string.
    """
    if isinstance(value, str):
        return _redacted(value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {redact(key): redact(child) for key, child in value.items()}  # type: ignore[return-value]
    if type(value) in (list, tuple):
        return type(value)(map(redact, value))  # type: ignore[call-arg, call-overload]
    return value


def _redacted(text: str) -> str:
    if not any(mark in text for mark in (":/", ":\\", "?", "@", "=", "_env:")):  # nearly every text
        return text
    start, count = 0, 0
    while match := _HOST.search(text, start):
        start, end, count = match.end(), _end(text, match.end()), count + 1
        text = text[:start] + (_without_secrets(text[start:end]) if count <= MOST else HIDDEN) + text[end:]
    if query := _BARE_QUERY.search(text):
        text = text[: query.end()] + HIDDEN + text[_end(text, query.end()) :]
    return _NAMED.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def _end(text: str, start: int) -> int:
    """Where a URL ends at the latest."""
    last = text.rfind("`", start) if text.count("`", 0, start) % 2 else -1
    return last if last >= 0 else len(text)


def _without_secrets(url: str) -> str:
    """A URL from its host on."""
    authority = re.split(r"[/\\?#]", url, maxsplit=1)[0]
    if "@" in url[len(authority) :] and not _HOST_AND_PORT.fullmatch(authority):
        return HIDDEN  # a password with a slash or a question mark in it
    if (at := authority.rfind("@")) >= 0:
        url = HIDDEN + url[at:]
    query = _QUERY.search(url)
    return url[: query.end()] + HIDDEN if query else url
