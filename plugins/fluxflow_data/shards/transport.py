"""Responses of a server that end, whatever it sends: their time and their size are bounded."""

from __future__ import annotations

import ssl
import time
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from socket import socket
from typing import Any
from urllib.request import BaseHandler, HTTPHandler, HTTPSHandler, Request

#: Seconds without a byte after which a response is given up.
TIMEOUT = 30.0

#: Seconds that a response may take beside the time for its bytes, redirects included.
PATIENCE = 60.0

#: Bytes per second that are slow, but not too slow.
SLOWEST = 8192

#: Bytes of a response beside its content: headers, and marks between chunks.
OVERHEAD = 1 << 20


class TooSlowError(TimeoutError):
    """A server sends, but too slowly."""


class _Bounded(RawIOBase):
    """The bytes of a response; raises TooSlowError, TimeoutError or HTTPException at its bounds."""

    def __init__(self, raw: Any, connection: socket, most: int, started: float) -> None:
        self._raw = raw
        self._connection = connection
        self._most = most
        self._started = started
        self._received = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, at least one byte unless the response has ended."""
        left = self._started + PATIENCE + self._received / SLOWEST - time.monotonic()
        if left <= 0:
            raise TooSlowError
        if self._received > self._most:
            raise HTTPException("more than was requested")
        self._connection.settimeout(min(TIMEOUT, left))
        try:
            count: int = self._raw.readinto(buffer)
        except TimeoutError:
            raise (TooSlowError if left < TIMEOUT and self._received else TimeoutError) from None
        self._received += count
        return count

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, connection: socket, *arguments: Any, most: int, started: float, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        raw = self.fp.detach()
        self.fp = BufferedReader(_Bounded(raw, connection, most, started))


@cache
def _context() -> ssl.SSLContext:
    """How the certificates of servers are verified; reading those of the system takes longer than many a request."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Http(HTTPHandler):
    def __init__(self, response: Any) -> None:
        super().__init__()
        self._response = response

    def http_open(self, req: Request) -> Any:
        """Send a request."""
        return self.do_open(partial(_connection, HTTPConnection, self._response), req)


class _Https(HTTPSHandler):
    def __init__(self, response: Any) -> None:
        super().__init__(context=_context())
        self._response = response

    def https_open(self, req: Request) -> Any:
        """Send a request."""
        return self.do_open(partial(_connection, HTTPSConnection, self._response), req, context=_context())


def _connection(kind: type[HTTPConnection], response: Any, *arguments: Any, **options: Any) -> HTTPConnection:
    connection = kind(*arguments, **options)
    connection.response_class = response
    return connection


def bounded(size: int) -> tuple[BaseHandler, BaseHandler]:
    """The handlers of one request whose response, redirects included, has at most `size` bytes of content."""
    response = partial(_Response, most=size + size // 8 + OVERHEAD, started=time.monotonic())
    return _Http(response), _Https(response)
