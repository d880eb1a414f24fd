"""SIGTERM ends a command at once while a data server is down, silent or slow, and saves what has been trained."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from fluxflow_registry.state import checkpoints

from ..forked import WARM, Started, group_is_gone
from ..plugins.shard_server import Server, serving_shard
from ..small import VAE_GAN


def silent(server: Server, _: BaseHTTPRequestHandler) -> bool:
    """Wait instead of answering."""
    return server.closing.wait(600)


def slow(server: Server, handler: BaseHTTPRequestHandler) -> bool:
    """Send a byte of the headers now and then."""
    for byte in b"HTTP/1.1 206 Partial Content\r\nX-Padding: " + b"x" * 10**4:
        handler.wfile.write(bytes([byte]))
        if server.closing.wait(0.2):
            break
    return True


def failing(server: Server, handler: BaseHTTPRequestHandler) -> bool:
    """Answer every request with 503 and a long `Retry-After`."""
    server.send(handler, 503, {"Retry-After": "3600"}, b"")
    return True


LIES: dict[str, Callable[[Server, BaseHTTPRequestHandler], bool]] = {"silent": silent, "slow": slow, "failing": failing}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_shard(tmp_path / "there", 24) as running:
        yield running


def command(server: Server, workers: int) -> list[str]:
    dataset = f"datasets.shapes={{type: webdataset, shards: '{server.url}/a.tar', image_size: 16}}"
    settings = [dataset, f"defaults.workers={workers}", "observers.graphs=false", "steps.vae_gan.epochs=50"]
    return ["small.yaml", "--output", "out", *(word for each in settings for word in ("--set", each))]


def started(root: Path, *words: str) -> Started:
    folder = root / "here"
    folder.mkdir()
    (folder / "small.yaml").write_text(VAE_GAN)
    return WARM.start(folder, *words, FLUXFLOW_HOME=str(root / "home"))


def wait_for_requests(server: Server, run: Started) -> None:
    """Wait until a request is not answered as it should be."""
    before = len(server.requests)
    while len(server.requests) == before:
        assert not run.ended(), run.said
        time.sleep(0.01)


@pytest.mark.parametrize("how", LIES)
def test_a_command_ends_while_it_opens_a_dataset(how: str, server: Server, tmp_path: Path) -> None:
    server.lie = LIES[how]
    run = started(tmp_path, *command(server, 0))
    wait_for_requests(server, run)

    run.signal(signal.SIGTERM)

    assert run.wait() == 75, run.said
    assert "SIGTERM: stopped before training started" in run.said
    assert not server.closing.is_set(), "the server never answered"


@pytest.mark.parametrize("doing", ["--check", "--inspect-data"])
def test_a_command_that_only_looks_ends_while_it_opens_a_dataset(doing: str, server: Server, tmp_path: Path) -> None:
    server.lie = silent
    run = started(tmp_path, *command(server, 0), doing)
    wait_for_requests(server, run)

    run.signal(signal.SIGTERM)

    assert run.wait() == 130, run.said
    assert run.said == "SIGTERM: stopped\n"
    assert not server.closing.is_set(), "the server never answered"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", LIES)
def test_a_run_ends_with_a_checkpoint_while_it_waits_for_data(
    how: str, workers: int, server: Server, tmp_path: Path
) -> None:
    run = started(tmp_path, *command(server, workers))
    while not (out := [*(tmp_path / "here").glob("out/*/position.json")]):
        assert not run.ended(), run.said
        time.sleep(0.01)
    server.lie = LIES[how]
    wait_for_requests(server, run)
    time.sleep(0.5 if workers else 0.0)  # until what workers have read ahead is trained on

    run.signal(signal.SIGTERM, group=True)

    assert run.wait() == 75, run.said
    assert group_is_gone(run.pid, 60), "workers are left"
    newest = checkpoints.listing(out[0].parent / "checkpoints")[0]
    checkpoints.verify(newest.folder)
    assert newest.run_batch > 0
    assert "Traceback" not in run.said
    assert not server.closing.is_set(), "the server never answered"
