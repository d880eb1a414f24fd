"""A local web server for tests: ranges, tokens, redirects, versions, and failures on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

from attrs import Factory, define

from .shard_files import write_shard


@define
class Server:
    """The files of a folder at `url`, and the requests for them."""

    folder: Path
    url: str = ""
    #: Whether parts of files are returned.
    ranges: bool = True
    #: The token without which every request is refused.
    token: str | None = None
    #: Where each path is redirected to.
    redirects: dict[str, str] = Factory(dict)
    #: How many of the next requests fail, and with which response; 0 closes the connection half-way.
    failing: int = 0
    failure: int = 503
    #: The header `Retry-After` of those responses.
    retry_after: str | None = None
    etags: dict[str, str] = Factory(dict)
    #: Answers a request instead, and returns whether it did: a server may do anything.
    lie: Callable[[Server, BaseHTTPRequestHandler], bool] | None = None
    #: What a `lie` that waits is waiting for.
    closing: Event = Factory(Event)
    #: The header `Link` of the responses with each path.
    links: dict[str, str] = Factory(dict)
    #: Whether a response with the whole file has its length.
    lengths: bool = True
    #: Path, range and authorization of each request.
    requests: list[tuple[str, str | None, str | None]] = Factory(list)

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        path, headers = handler.path.lstrip("/").partition("?")[0], handler.headers
        self.requests.append((path, headers.get("Range"), headers.get("Authorization")))
        if self.lie is not None and self.lie(self, handler):
            return None
        if self.failing and self.failure:
            self.failing -= 1
            return self.send(handler, self.failure, {"Retry-After": self.retry_after} if self.retry_after else {}, b"")
        if path in self.redirects:
            return self.send(handler, 302, {"Location": self.redirects[path]}, b"")
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return self.send(handler, 401, {}, b"")
        if not (self.folder / path).is_file():
            return self.send(handler, 404, {}, b"")
        content = (self.folder / path).read_bytes()
        fields = {"ETag": self.etags.get(path, f'"{blake2b(content, digest_size=8).hexdigest()}"')}
        fields |= {"Link": self.links[path]} if path in self.links else {}
        code = 200
        if self.ranges and headers.get("Range"):
            first, _, last = headers["Range"].removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(content), len(content))
            if start >= len(content):
                return self.send(handler, 416, {}, b"")
            fields["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            code, content = 206, content[start:stop]
        return self.send(handler, code, fields, content)

    def send(self, handler: BaseHTTPRequestHandler, code: int, headers: Mapping[str, str], content: bytes) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        if self.lengths or code != 200:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if self.failing and len(content) > 1:
            self.failing -= 1
            content = content[: len(content) // 2]
        handler.wfile.write(content)


@contextmanager
def serving_shard(folder: Path, samples: int) -> Iterator[Server]:
    """Serve a new folder with the shard `a.tar`."""
    folder.mkdir()
    write_shard(folder / "a.tar", range(samples))
    with serving(folder) as server:
        yield server


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Server]:
    """Serve a folder on a free port."""
    server = Server(folder, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.respond(self)

        def handle(self) -> None:
            with suppress(ConnectionError):  # what it answers may be too much for whoever has asked
                super().handle()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        listener.shutdown()
        listener.server_close()
        thread.join()
