"""Whatever a data server answers, a command ends soon, with one sentence about it and exit code 2."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler
from itertools import repeat
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fluxflow_data.shards import remote, requests, transport
from fluxflow_data.shards.parallel import in_parallel
from fluxflow_registry import DataError

from .shard_files import captions_of, open_shards
from .shard_server import Server, serving_shard

Lie = Callable[[Server, BaseHTTPRequestHandler], bool]

DIGITS = "9" * 5000


@pytest.fixture(autouse=True)
def _impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    for module, name, value in (
        (requests, "PAUSE", 0.001), (requests, "LONGEST", 0.5), (transport, "TIMEOUT", 0.3),
        (transport, "PATIENCE", 0.4), (transport, "OVERHEAD", 1 << 16), (remote, "MOST_READ", 1 << 18),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_shard(tmp_path / "there", 4) as running:
        yield running


def raw(*parts: bytes, endless: bytes | None = None, pause: float | None = None) -> Lie:
    """Send these bytes, then one part again and again, with a pause before each."""

    def lie(server: Server, handler: BaseHTTPRequestHandler) -> bool:
        handler.wfile.write(b"".join(parts))
        for more in repeat(endless) if endless else ():
            if server.closing.wait(pause) if pause else server.closing.is_set():
                break
            handler.wfile.write(more)
        handler.close_connection = True
        return True

    return lie


def answer(code: int, content: bytes = b"", **headers: str) -> Lie:
    """Send a response with these headers."""

    def lie(server: Server, handler: BaseHTTPRequestHandler) -> bool:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {code} OK", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        return raw("\r\n".join(lines).encode("latin-1"), content)(server, handler)

    return lie


def changed(**headers: str) -> Lie:
    """Answer truly, but with these headers in the place of its own."""

    def lie(server: Server, handler: BaseHTTPRequestHandler) -> bool:
        send = handler.send_header
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}

        def send_header(name: str, value: str) -> None:
            if name in wanted:
                value = wanted[name].replace("{}", value)
            if value:
                send(name, value)

        handler.send_header = send_header  # type: ignore[assignment, method-assign]
        return False

    return lie


def zeros(total: int) -> Lie:
    """Return zeros for any part of a file that is as long as it says."""

    def lie(server: Server, handler: BaseHTTPRequestHandler) -> bool:
        first, _, last = (handler.headers.get("Range") or "bytes=0-0").removeprefix("bytes=").partition("-")
        content = bytes(int(last or first) - int(first) + 1)
        fields = {"ETag": '"1"', "Content-Range": f"bytes {first}-{last}/{total}"}
        server.send(handler, 206, fields, content)
        return True

    return lie


def part(*parts: bytes, endless: bytes | None = None, pause: float | None = None) -> Lie:
    """Send what begins like a response with the part that was requested."""

    def lie(server: Server, handler: BaseHTTPRequestHandler) -> bool:
        content = (server.folder / "a.tar").read_bytes()
        first, _, last = (handler.headers.get("Range") or "bytes=0-0").removeprefix("bytes=").partition("-")
        tag = blake2b(content, digest_size=8).hexdigest()
        head = f'HTTP/1.1 206 OK\r\nETag: "{tag}"\r\nContent-Range: bytes {first}-{last}/{len(content)}\r\n'
        return raw(head.encode(), *parts, endless=endless, pause=pause)(server, handler)

    return lie


LIES: dict[str, Lie] = {
    "a pause of 5,000 digits": answer(429, Retry_After=DIGITS),
    "a pause of a day": answer(503, Retry_After="86400"),
    "a pause in other digits": answer(429, Retry_After="\xb2"),
    "a total of 10^30": changed(Content_Range="bytes 0-0/1" + "0" * 30),
    "a total of 5,000 digits": changed(Content_Range=f"bytes 0-0/{DIGITS}"),
    "a total in other digits": changed(Content_Range="bytes 0-0/\xb2"),
    "an unknown total": changed(Content_Range="bytes 0-0/*"),
    "a range of another unit": changed(Content_Range="lines 0-0/9"),
    "a range that ends before it starts": changed(Content_Range="bytes 5-0/9"),
    "a range beyond the file": changed(Content_Range="bytes 0-9/9"),
    "no range": changed(Content_Range=""),
    "zeros without end": zeros(10**14),
    "an endless part": part(b"\r\n", endless=bytes(4096)),
    "endless chunks": part(b"Transfer-Encoding: chunked\r\n\r\n", endless=b"1000\r\n" + bytes(4096) + b"\r\n"),
    "an endless chunk size": part(b"Transfer-Encoding: chunked\r\n\r\n", endless=b"1" * 4096),
    "endless trailers": part(b"Transfer-Encoding: chunked\r\n\r\n0\r\n", endless=b"X: y\r\n" * 99),
    "an endless file": raw(b"HTTP/1.1 200 OK\r\n\r\n", endless=bytes(4096)),
    "endless headers": raw(b"HTTP/1.1 206 OK\r\n", endless=b"X: y\r\n" * 99),
    "an endless header": raw(b"HTTP/1.1 206 OK\r\nX: ", endless=b"y" * 4096),
    "an endless status": raw(endless=b"HTTP" * 99),
    "continue without end": raw(endless=b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "headers byte by byte": raw(b"HTTP/1.1 206 OK\r\n", endless=b"X", pause=0.05),
    "content byte by byte": part(b"\r\n", endless=b"X", pause=0.05),
    "an endless redirect": raw(b"HTTP/1.1 302 OK\r\nLocation: /a.tar\r\n\r\n", endless=bytes(4096)),
    "a redirect to itself": answer(302, Location="/a.tar", Content_Length="0"),
    "a redirect to a file": answer(302, Location="file:///etc/passwd", Content_Length="0"),
    "a redirect to nothing": answer(302, Location="", Content_Length="0"),
    "a redirect without an address": answer(302, Content_Length="0"),
    "a redirect to a broken address": answer(302, Location="http://[::1/a.tar", Content_Length="0"),
    "a redirect to a broken port": answer(302, Location="http://127.0.0.1:port/a.tar", Content_Length="0"),
    "a redirect to other letters": answer(302, Location="http://\xe9\xff..\xb2/\xe9.tar", Content_Length="0"),
    "a redirect with a password": answer(302, Location="http://a:b@127.0.0.1:1/a.tar", Content_Length="0"),
    "nothing": raw(),
    "noise": raw(bytes(range(256)) * 9),
    "another protocol": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "another version": raw(b"HTTP/9.9 206 OK\r\n\r\n"),
    "a status in other digits": raw("HTTP/1.1 2\xb26 OK\r\n\r\n".encode("latin-1")),
    "a status of 5,000 digits": raw(f"HTTP/1.1 {DIGITS} OK\r\n\r\n".encode()),
    "an unknown status": answer(999),
    "no content": answer(204),
    "a file with a length of 5,000 digits": answer(200, b"x" * 600, Content_Length=DIGITS),
    "a file with a length in other digits": answer(200, b"x" * 600, Content_Length="\xb2"),
    "a file with a negative length": answer(200, b"x" * 600, Content_Length="-5"),
    "a file that is longer than it says": answer(200, b"x" * 600, Content_Length="10"),
    "a file that is shorter than it says": answer(200, b"x" * 600, Content_Length="1000"),
    "a damaged archive": answer(200, b"x" * 600, Content_Length="600"),
}  # fmt: skip

#: What a library of Python says, rather than we do.
FOREIGN = re.compile(r"Error|Exception|Errno|Traceback|object at|could not|invalid literal|_ssl\.c|idna|codec")


def one_sentence(error: DataError) -> str:
    """The message of an error with one problem; it is in our words, and so is the rest of what is shown."""
    (problem,) = error.problems
    assert error.exit_code == 2
    assert "\n" not in problem.message
    assert problem.message.startswith("shard `a.tar` ")
    assert not FOREIGN.search(str(error)), str(error)
    assert len(str(error)) < 1000
    return problem.message


@pytest.mark.timeout(60)
@pytest.mark.parametrize("options", [{}, {"fetch": True}], ids=["parts", "fetch"])
@pytest.mark.parametrize("how", LIES)
def test_a_server_that_lies_while_a_dataset_is_opened_is_reported(
    how: str, options: dict[str, Any], server: Server
) -> None:
    server.lie = LIES[how]

    with pytest.raises(DataError) as caught:
        open_shards(f"{server.url}/a.tar", fetch_limit=0.01, **options)

    assert one_sentence(caught.value)
    assert not list((server.folder.parent / "home").rglob("*.fetching"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", LIES)
def test_a_server_that_lies_during_training_is_reported(how: str, server: Server) -> None:
    source = open_shards(f"{server.url}/a.tar")
    server.lie = LIES[how]

    with pytest.raises(DataError) as caught:
        source.batch([0], 0)

    assert one_sentence(caught.value)


def close_each(listener: socket.socket) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            listener.accept()[0].close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["http", "silent", "closed"])
def test_https_to_a_server_without_it_is_reported(how: str, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if how == "closed":
            Thread(target=close_each, args=(listener,), daemon=True).start()
        port = server.url.rpartition(":")[2] if how == "http" else listener.getsockname()[1]

        with pytest.raises(DataError) as caught:
            open_shards(f"https://127.0.0.1:{port}/a.tar")

    assert one_sentence(caught.value)


@pytest.mark.parametrize("part", ["before", "after", "longer", "other"])
def test_another_part_than_the_requested_one_is_not_used(part: str, server: Server) -> None:
    source = open_shards(f"{server.url}/a.tar")

    def lie(_: Server, handler: BaseHTTPRequestHandler) -> bool:
        first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        moved = {"before": (-1, -1), "after": (1, 1), "longer": (0, 5), "other": (512, 0)}[part]
        if part == "longer":
            content = (server.folder / "a.tar").read_bytes()
            tag = blake2b(content, digest_size=8).hexdigest()
            fields = {"ETag": f'"{tag}"', "Content-Range": f"bytes {first}-{last}/{len(content)}"}
            server.send(handler, 206, fields, content[first : last + 6])
            return True
        del handler.headers["Range"]
        handler.headers["Range"] = f"bytes={first + moved[0]}-{last + moved[1]}"
        return False

    server.lie = lie

    with pytest.raises(DataError, match=r"returned another part than the requested one|sends more than the part"):
        source.batch([1], 0)


@pytest.mark.parametrize("tag", ["", "etag", "modified"])
def test_content_that_changes_while_its_length_stays_is_noticed(tag: str, server: Server) -> None:
    length = (server.folder / "a.tar").stat().st_size
    now = "Fri, 27 Nov 2026 00:00:01 GMT"

    def lie(server: Server, handler: BaseHTTPRequestHandler) -> bool:
        changed(ETag={"": "", "etag": "{}", "modified": ""}[tag])(server, handler)
        if tag == "modified":
            changed(Content_Range="{}\r\nLast-Modified: " + now)(server, handler)
        return False

    server.lie = lie
    before = open_shards(f"{server.url}/a.tar")
    changed_bytes = (server.folder / "a.tar").read_bytes().replace(b"image 2", b"image 9")
    (server.folder / "a.tar").write_bytes(changed_bytes)
    assert (server.folder / "a.tar").stat().st_size == length
    now = now.replace("01", "02")

    if tag:
        with pytest.raises(DataError, match="it has changed since the dataset was opened"):
            before.batch([0], 0)
    else:
        assert captions_of(before) == [f"image {number}" for number in range(4)], "it was downloaded whole"
    after = open_shards(f"{server.url}/a.tar")

    assert captions_of(after) == ["image 0", "image 1", "image 9", "image 3"]
    assert (after.digest != before.digest) == (not tag), "as its headers are the same, others are noticed by their tag"


def test_other_shards_of_a_server_that_is_unreachable_are_not_waited_for(server: Server) -> None:
    server.lie = raw(endless=b"x", pause=0.05)
    started = time.monotonic()

    with pytest.raises(DataError) as caught:
        open_shards(f"{server.url}/{{000..199}}.tar")

    assert len(caught.value.problems) == 200
    assert len(server.requests) < 100, "shards at once, each a few times"
    assert time.monotonic() - started < 60


def test_calls_in_parallel_return_in_order_and_raise_the_first_exception() -> None:
    def call(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number in (7, 11):
            raise ValueError(str(number))
        return -number

    assert in_parallel(call, range(7), 3) == [0, -1, -2, -3, -4, -5, -6]
    assert in_parallel(call, [], 3) == []
    with pytest.raises(ValueError, match="7"):
        in_parallel(call, range(20), 16)
