"""Requests to a server, repeated where the same request may succeed; whatever the server answers, they end."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from fluxflow_registry import DataError, counted

from . import transport
from .paths import is_remote, is_this_machine, shard_problem
from .tokens import find_token, token_notes

T = TypeVar("T")

#: How often a request is made.
ATTEMPTS = 5

#: Seconds before the second attempt; each later one waits twice as long.
PAUSE = 0.5

#: The longest `Retry-After` of a server that is obeyed, in seconds.
LONGEST_PAUSE = 60.0

#: Seconds after which a request is not made again, pauses included.
LONGEST = 90.0

#: Responses after which the same request may succeed.
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})

#: What other responses mean: the end of the sentence, and the code.
REFUSALS = {
    401: ("the server requires a token (401)", "access-denied"),
    403: ("the server denies access (403)", "access-denied"),
    404: ("it does not exist (404)", "missing-file"),
    410: ("it no longer exists (410)", "missing-file"),
    416: ("it is empty, or shorter than before (416)", "changed-file"),
}

#: A number in a header: ASCII digits, and no more than a file, or a pause, can have.
_NUMBER = re.compile(r"[0-9]{1,15}\Z")

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})\Z")


class TemporaryError(Exception):
    """An attempt that has failed, though another may succeed.

    `after` is the pause that the server requests, in seconds; `progress` is whether the attempt was of some use.
    """

    def __init__(self, failure: str, after: float = 0.0, progress: bool = False) -> None:
        super().__init__(failure)
        self.after = after
        self.progress = progress


class UnreachableError(DataError):
    """A server has not answered any of several requests."""


def shard_error(url: str, cause: str, code: str, notes: Sequence[tuple[str, str]] = ()) -> DataError:
    """The error that a shard cannot be read from its server."""
    return DataError(shard_problem(url, f"cannot be read: {cause}", code, notes))


def repeated(url: str, attempt: Callable[[], T]) -> T:
    """What `attempt` returns, made again where it raises TemporaryError; raises UnreachableError in the end."""
    started, count = time.monotonic(), 0
    while True:
        count += 1
        try:
            return attempt()
        except TemporaryError as error:
            pause = max(min(error.after, LONGEST_PAUSE), PAUSE * 2.0 ** (count - 1))
            started = time.monotonic() if error.progress else started
            if count == ATTEMPTS or time.monotonic() + pause > started + LONGEST:
                cause = f"cannot be read: {error} ({counted(count, 'attempt')})"
                raise UnreachableError(shard_problem(url, cause, "unreachable-server")) from None
        time.sleep(pause)


def response(url: str, token_env: str | None, part: tuple[int, int | None] | None, size: int) -> HTTPResponse:
    """The response to a request for a part of a file, or for all of it: at most `size` bytes.

    Raises DataError, or TemporaryError where the same request may succeed.
    """
    request = Request(url, headers={"User-Agent": "fluxflow-registry", "Accept-Encoding": "identity"})
    if part is not None:
        start, stop = part
        request.add_header("Range", f"bytes={start}-{'' if stop is None else stop - 1}")
    token = find_token(url, token_env)
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    direct = [ProxyHandler({})] if is_this_machine(url) else []  # without the environment's proxies
    opener = build_opener(_Redirects(url, token), *transport.bounded(size), *direct)
    try:
        answer: HTTPResponse = opener.open(request, timeout=transport.TIMEOUT)
        return answer
    except HTTPError as error:
        error.close()
        failure = f"the server responded with status {error.code}"
        if error.code in TEMPORARY:
            raise TemporaryError(failure, number_in(error.headers.get("Retry-After")) or 0.0) from None
        if 300 <= error.code < 400:
            failure = f"the server redirects too often, or to an address that is not on a server ({error.code})"
        cause, code = REFUSALS.get(error.code, (failure, "unreachable-server"))
        notes = token_notes(url, token_env) if error.code in (401, 403, 404) else ()
        raise shard_error(url, cause, code, notes) from None
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLError) and not isinstance(reason, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            raise shard_error(url, _encryption_failure(reason), "unreachable-server") from None
        raise TemporaryError(failure_of(reason)) from None
    except ValueError:  # an address that cannot be parsed, for example
        cause = "the server redirects to an address that is not valid, or its response is not valid HTTP"
        raise shard_error(url, cause, "unreachable-server") from None


def failure_of(error: object) -> str:
    """Why a connection failed, in words of the system or of ours: what a server sends is not repeated."""
    if isinstance(error, transport.TooSlowError):
        return f"the server sends less than {transport.SLOWEST:,} bytes per second"
    if isinstance(error, TimeoutError):
        return f"no response within {transport.TIMEOUT:g} s"
    if isinstance(error, HTTPException) and not isinstance(error, OSError):
        return "its response is not valid HTTP"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.strerror:
        return error.strerror
    return "the connection was lost"


def _encryption_failure(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not valid: {error.verify_message}"
    return "no encrypted connection: the server or its port may only support http"


def number_in(header: str | None) -> int | None:
    """The number in a header; None where it has none that is plausible."""
    return int(header) if header is not None and _NUMBER.match(header) else None


def range_in(answer: HTTPResponse, url: str) -> tuple[int, int, int]:
    """The start and stop of the part in a response, and the length of the file."""
    match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    start, last, length = map(int, match.groups()) if match else (0, 0, 0)
    if not start <= last < length:
        raise shard_error(url, "the server does not say which part it returned", "unreachable-server")
    return start, last + 1, length


class _Redirects(HTTPRedirectHandler):
    """Follows redirects; the token is sent again only where scheme, host and port stay the same."""

    def __init__(self, url: str, token: str | None) -> None:
        self._origin = urlsplit(url)[:2]
        self._token = token

    def http_error_302(self, req: Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect; an address that cannot be parsed leaves no connection open."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """Build the next request, from the headers that belong to no host."""
        if not is_remote(newurl):
            return None
        fp.close()  # urllib would read all of it
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and self._token and urlsplit(newurl)[:2] == self._origin:
            following.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return following
