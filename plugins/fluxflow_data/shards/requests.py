"""Requests to a server, repeated where the same request may succeed, with a token that is sent to no other host."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from fluxflow_registry import DataError, Variable

from .paths import is_remote, is_this_machine, public, shard_problem

#: Whose token is used where the recipe names no variable, and the variables that may hold it.
HUB = "huggingface.co"
HUB_VARIABLES = ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN")

#: Seconds without a byte after which a request is given up, and how often it is made.
TIMEOUT = 30.0
ATTEMPTS = 5

#: Seconds before the second attempt; each later one waits twice as long.
PAUSE = 0.5

#: The longest `Retry-After` of a server that is obeyed, in seconds.
LONGEST_PAUSE = 60.0

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


def find_token(url: str, token_env: str | None) -> str | None:
    """The token for a URL; raises DataError rather than send it unencrypted."""
    for variable in _variables(url, token_env):
        token = os.environ.get(variable, "").strip()
        if not token:
            continue
        if not token.isascii() or not token.isprintable() or " " in token:
            raise _unusable(variable, url, "it contains characters that no token has", "invalid-token")
        if urlsplit(url).scheme != "https" and not is_this_machine(url):
            cause = "it would be sent unencrypted: use https, or unset the variable"
            raise _unusable(variable, url, cause, "unencrypted-token")
        return token
    return None


def token_note(url: str, token_env: str | None) -> tuple[str, str]:
    """A note on which token was sent to a server that refused a request; never the token itself."""
    variables = _variables(url, token_env)
    used = [variable for variable in variables if os.environ.get(variable)]
    if used:
        return "status", f"the token in {used[0]} was sent"
    if variables:
        return "hint", f"set {' or '.join(variables)} to a token: none was sent"
    return "hint", "set `token_env` to the name of the environment variable that holds a token: none was sent"


def _variables(url: str, token_env: str | None) -> tuple[str, ...]:
    """The variables that may hold the token for a host: the recipe's, or the Hub's own for the Hub alone."""
    if token_env is not None:
        return (token_env,)
    host = urlsplit(url).hostname or ""
    return HUB_VARIABLES if host == HUB or host.endswith(f".{HUB}") else ()


def _unusable(variable: str, url: str, cause: str, code: str) -> DataError:
    message = f"cannot send the token in {variable} to {public(url)}: {cause}"
    return DataError(message, Variable(variable), code=code, subject=variable)


def shard_error(url: str, cause: str, code: str, notes: Sequence[tuple[str, str]] = ()) -> DataError:
    """The error that a shard cannot be read from its server."""
    return DataError(shard_problem(url, f"cannot be read: {cause}", code, notes))


def response(url: str, token_env: str | None, part: tuple[int, int | None] | None) -> HTTPResponse:
    """The response to a request for a part of a file, or for all of it; raises DataError."""
    failure = ""
    for attempt in range(ATTEMPTS):
        request = Request(url, headers={"User-Agent": "fluxflow-registry", "Accept-Encoding": "identity"})
        if part is not None:
            start, stop = part
            request.add_header("Range", f"bytes={start}-{'' if stop is None else stop - 1}")
        token = find_token(url, token_env)
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        direct = [ProxyHandler({})] if is_this_machine(url) else []  # without the environment's proxies
        after: str | None = None
        try:
            answer: HTTPResponse = build_opener(_Redirects(url, token), *direct).open(request, timeout=TIMEOUT)
            return answer
        except HTTPError as error:
            error.close()
            failure, after = f"the server responded with status {error.code}", error.headers.get("Retry-After")
            if error.code not in TEMPORARY:
                cause, code = REFUSALS.get(error.code, (failure, "unreachable-server"))
                notes = [token_note(url, token_env)] if error.code in (401, 403, 404) else ()
                raise shard_error(url, cause, code, notes) from None
        except (URLError, OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            system = reason.strerror if isinstance(reason, OSError) else None
            failure = system or str(reason) or type(reason).__name__
            if isinstance(reason, TimeoutError):
                failure = f"no response within {TIMEOUT:g} s"
        if attempt + 1 < ATTEMPTS:
            wait(attempt, after)
    raise shard_error(url, f"{failure} ({ATTEMPTS} attempts)", "unreachable-server")


def connection_lost(url: str) -> DataError:
    """The error after the last attempt whose response was incomplete."""
    return shard_error(url, f"the connection was lost ({ATTEMPTS} attempts)", "unreachable-server")


def wait(attempt: int, after: str | None = None) -> None:
    """Pause before the next attempt, as long as the server's `Retry-After`, or twice as long as the time before."""
    requested = float(after) if after and after.isdigit() else 0.0
    time.sleep(max(min(requested, LONGEST_PAUSE), PAUSE * 2.0**attempt))


class _Redirects(HTTPRedirectHandler):
    """Follows redirects; the token is sent again only where scheme, host and port stay the same."""

    def __init__(self, url: str, token: str | None) -> None:
        self._origin = urlsplit(url)[:2]
        self._token = token

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """Build the next request, from the headers that belong to no host."""
        if not is_remote(newurl):
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and self._token and urlsplit(newurl)[:2] == self._origin:
            following.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return following
