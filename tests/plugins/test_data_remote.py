"""Shards on a server are read in parts, changes are found, and a token is sent to no other host."""

from __future__ import annotations

import pickle
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
import webdataset

from fluxflow_data.shards import remote, requests, transport
from fluxflow_data.shards.dataset import ShardSource, WebDataset
from fluxflow_data.shards.tokens import find_token
from fluxflow_registry import DataError
from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.plan.steps import RecipePlan

from ..engine.conftest import StopAfter, start
from ..engine.test_resume import Listener, finals
from ..small import VAE_GAN
from .shard_files import SIZE, captions_of, open_shards, png, problems_in, sample, with_json, write_shard, write_tar
from .shard_server import Server, serving

SECRET = "hf_thesecretthatnobodymaysee"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_ENDPOINT", "SHARDS_TOKEN", "FLUXFLOW_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requests, "PAUSE", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "there").mkdir()
    with serving(tmp_path / "there") as running:
        yield running


def allow(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow the token in SHARDS_TOKEN for the server of a URL."""
    monkeypatch.setenv("FLUXFLOW_TOKENS", f"{urlsplit(url).netloc}=SHARDS_TOKEN")


def report(*urls: str, **options: Any) -> str:
    return "\n".join(map(str, problems_in(*urls, **options)))


def test_shards_written_by_webdataset_are_read_from_a_server_within_two_seconds(server: Server) -> None:
    for number in range(3):
        with webdataset.TarWriter(str(server.folder / f"{number}.tar")) as writer:
            for key in range(200):
                content = {"__key__": f"k{key:04}", "png": png(key), "txt": f"image {number} {key}"}
                writer.write(content)
    start = time.process_time()  # of this process, the server included: a loaded machine changes nothing

    source = open_shards(f"{server.url}/{{0..2}}.tar")
    batch = next(iter(epoch_batches(source, 16, len(source) // 16, 0, 0, ("step", 0))))

    assert time.process_time() - start < 2
    assert len(server.requests) < 100, "far fewer than there are samples"
    assert len(source) == 600
    assert torch.as_tensor(batch.fields["image"]).shape == (16, 3, SIZE, SIZE)
    assert source.name(200) == f"{server.url}/1.tar:k0000"


def test_a_remote_shard_has_the_same_samples_as_the_file(server: Server) -> None:
    paths = [write_shard(server.folder / f"{n}.tar", range(5 * n, 5 * n + 5)) for n in range(2)]

    near, far = open_shards(*paths, flip=0.5), open_shards(f"{server.url}/0.tar", f"{server.url}/1.tar", flip=0.5)

    assert near.digest == far.digest
    for indices in (range(10), [7, 0, 3]):
        one, other = near.batch(indices, 3), far.batch(indices, 3)
        assert torch.equal(torch.as_tensor(one["image"]), torch.as_tensor(other["image"]))
        assert one["caption"] == other["caption"]
    copy = pickle.loads(pickle.dumps(far))
    assert copy.batch([4], 0)["caption"] == ["image 4"]


def test_captions_are_read_from_remote_json_members(server: Server) -> None:
    write_tar(server.folder / "a.tar", with_json(0, {"caption": "a cat"}))

    assert captions_of(open_shards(f"{server.url}/a.tar", caption_key="json.caption")) == ["a cat"]


def test_only_the_needed_parts_are_requested(server: Server) -> None:
    members = {name: data for n in range(8) for name, data in sample(n, extra=b"x" * 400_000).items()}
    path = write_tar(server.folder / "a.tar", members)

    source = open_shards(f"{server.url}/a.tar")
    server.requests.clear()
    source.batch([2, 5], 0)

    assert len(server.requests) == 2, "image and caption are side by side and are read by one request"
    parts = [part for _, part, _ in server.requests if part]
    spans = [[int(end) for end in part.removeprefix("bytes=").split("-")] for part in parts]
    assert sum(stop - start + 1 for start, stop in spans) < path.stat().st_size / 100


def test_a_second_opening_makes_one_request_for_each_shard(server: Server) -> None:
    for number in range(3):
        write_shard(server.folder / f"{number}.tar", [number])
    urls = [f"{server.url}/{number}.tar" for number in range(3)]
    first = open_shards(*urls)
    server.requests.clear()

    second = open_shards(*urls)

    assert sorted(path for path, _, _ in server.requests) == ["0.tar", "1.tar", "2.tar"]
    assert {part for _, part, _ in server.requests} == {"bytes=0-0"}
    assert captions_of(second) == captions_of(first)


@pytest.mark.parametrize("fetch", [False, True])
def test_a_shard_is_neither_indexed_nor_downloaded_again_because_its_url_is_signed_again(
    fetch: bool, server: Server
) -> None:
    write_shard(server.folder / "a.tar", range(3))
    open_shards(f"{server.url}/a.tar?id=7&X-Amz-Date=1&X-Amz-Signature=old", fetch=fetch)
    server.requests.clear()

    again = open_shards(f"{server.url}/a.tar?id=7&X-Amz-Date=2&X-Amz-Signature=new#x", fetch=fetch)
    count = len(server.requests)
    other = open_shards(f"{server.url}/a.tar?id=8&X-Amz-Date=2&X-Amz-Signature=new", fetch=fetch)

    assert captions_of(again) == captions_of(other) == ["image 0", "image 1", "image 2"]
    assert count == 1
    assert len(server.requests) > 2, "another parameter may mean another file"


@pytest.mark.parametrize("how", ["content", "etag", "shorter", "gone"])
def test_a_shard_that_changes_after_opening_is_refused_by_name(how: str, server: Server) -> None:
    path = write_shard(server.folder / "a.tar", range(30))
    source = open_shards(f"{server.url}/a.tar")
    if how == "content":
        write_shard(path, range(40))
    elif how == "etag":
        server.etags["a.tar"] = '"another"'
    elif how == "shorter":
        path.write_bytes(path.read_bytes()[:1024])
    else:
        path.unlink()

    with pytest.raises(
        DataError,
        match=r"http://127.0.0.1:\d+/a\.tar  shard `a\.tar` cannot be read: it (has changed|does not exist|is empty)",
    ):
        source.batch([20], 0)


def test_a_shard_that_changed_between_two_runs_is_indexed_again(server: Server) -> None:
    path = write_shard(server.folder / "a.tar", range(3))
    open_shards(f"{server.url}/a.tar")
    write_shard(path, range(5))

    assert len(open_shards(f"{server.url}/a.tar")) == 5


@pytest.mark.parametrize("failure", [503, 429, 0])
def test_a_request_is_repeated_after_a_temporary_failure(failure: int, server: Server) -> None:
    write_shard(server.folder / "a.tar", range(4))
    source = open_shards(f"{server.url}/a.tar")
    server.failure, server.failing = failure, requests.ATTEMPTS - 1

    assert captions_of(source) == [f"image {number}" for number in range(4)]


@pytest.mark.parametrize(("after", "pause"), [("7", 7.0), ("3600", requests.LONGEST_PAUSE), ("soon", 0.001)])
def test_the_server_decides_how_long_to_wait_within_limits(
    after: str, pause: float, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    write_shard(server.folder / "a.tar", range(4))
    source = open_shards(f"{server.url}/a.tar")
    server.failure, server.failing, server.retry_after = 429, 1, after
    monkeypatch.setattr(time, "sleep", pauses.append)

    assert captions_of(source) == [f"image {number}" for number in range(4)]
    assert pauses == [pause]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (503, r"cannot be read: the server responded with status 503 \(5 attempts\)"),
        (0, r"cannot be read: the connection was lost \(5 attempts\)"),
    ],
)
def test_a_lasting_failure_is_reported(failure: int, words: str, server: Server) -> None:
    write_shard(server.folder / "a.tar", [0])
    source = open_shards(f"{server.url}/a.tar")
    server.failure, server.failing = failure, 99

    with pytest.raises(DataError, match=words):
        source.batch([0], 0)


def test_an_unreachable_server_and_a_missing_shard_are_reported_together(server: Server) -> None:
    with serving(server.folder) as gone:
        pass

    text = report(f"{gone.url}/a.tar", f"{server.url}/b.tar")

    assert f"{gone.url}/a.tar  shard `a.tar` cannot be read: Connection refused (5 attempts)" in text
    assert f"{server.url}/b.tar  shard `b.tar` cannot be read: it does not exist (404)" in text


def test_requests_to_a_server_that_does_not_respond_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(transport, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = report(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar")

    assert "cannot be read: no response within 0.05 s (5 attempts)" in text


def test_a_truncated_remote_shard_is_found_before_training(server: Server) -> None:
    path = write_shard(server.folder / "a.tar", range(4))
    path.write_bytes(path.read_bytes()[: 9 * 512])

    assert f"{server.url}/a.tar  shard `a.tar` is truncated" in report(f"{server.url}/a.tar")


def test_shards_of_a_server_without_ranges_are_downloaded_once(server: Server) -> None:
    server.ranges = False
    write_shard(server.folder / "a.tar", range(4))

    first = open_shards(f"{server.url}/a.tar")
    count = len(server.requests)
    second = open_shards(f"{server.url}/a.tar")

    assert captions_of(first) == captions_of(second) == [f"image {number}" for number in range(4)]
    home = server.folder.parent / "home"
    assert first.notes == [
        f"1 of 1 shards were downloaded whole to {home}/shards: "
        "their server does not return parts of files, or no ETag or Last-Modified for them"
    ]
    assert first.name(1) == f"{server.url}/a.tar:0001"
    assert len(server.requests) == count + 1
    assert not list((server.folder.parent / "home").rglob("*.fetching"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_is_resumed_after_a_lost_connection(
    ranges: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK", 512)
    server.ranges, server.failure = ranges, 0
    write_shard(server.folder / "a.tar", range(8))
    server.failing = 2

    source = open_shards(f"{server.url}/a.tar", fetch=True)

    assert captions_of(source) == [f"image {number}" for number in range(8)]
    assert not source._table.shards[0].path.startswith("http")
    assert source.notes == []


def test_more_than_the_limit_is_not_downloaded(server: Server) -> None:
    write_shard(server.folder / "a.tar", range(8))
    server.ranges = False
    known = report(f"{server.url}/a.tar", fetch_limit=1e-6)
    assert len(server.requests) == 1, "its length is known before it is downloaded"
    server.lengths = False
    unknown = report(f"{server.url}/a.tar", fetch_limit=1e-6)

    assert "it must be downloaded whole (0.0 GiB), but `fetch_limit` leaves 0.0 GiB" in known
    assert "it must be downloaded whole, but `fetch_limit` leaves 0.0 GiB" in unknown
    assert not list((server.folder.parent / "home").rglob("*.tar*"))


def test_a_download_that_does_not_fit_on_the_disk_is_reported_and_leaves_nothing(server: Server) -> None:
    write_shard(server.folder / "a.tar", range(8))
    size = (server.folder / "a.tar").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        text = report(f"{server.url}/a.tar", fetch=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert "cannot write to" in text
    assert not list((server.folder.parent / "home").rglob("*.tar*"))
    assert len(open_shards(f"{server.url}/a.tar", fetch=True)) == 8


@pytest.mark.parametrize("size", [0, 1, 512, -1])
def test_a_downloaded_shard_that_was_cut_on_the_disk_is_downloaded_again(size: int, server: Server) -> None:
    write_shard(server.folder / "a.tar", range(8))
    open_shards(f"{server.url}/a.tar", fetch=True)
    (file,) = (server.folder.parent / "home").rglob("*.tar")
    content = file.read_bytes()
    file.write_bytes(content[:size])

    source = open_shards(f"{server.url}/a.tar", fetch=True)

    assert len(source) == 8
    assert file.read_bytes() == content


def test_problems_of_a_downloaded_shard_name_its_url(server: Server) -> None:
    write_tar(server.folder / "a.tar", {**sample(0), "1.png": png(1)})

    text = report(f"{server.url}/a.tar", fetch=True)

    assert f"{server.url}/a.tar  sample `1` has no caption" in text
    assert str(server.folder.parent / "home") not in text


def test_buckets_of_remote_images_are_known(server: Server) -> None:
    write_shard(server.folder / "a.tar", range(4))

    source = open_shards(f"{server.url}/a.tar", bucket_multiple=8)

    assert source.sizes().tolist() == [[SIZE, SIZE]] * 4
    assert source._table.shards[0].path.endswith(".tar")
    assert source.notes[0].endswith("`bucket_multiple` needs the size of every image")


def test_the_token_of_the_named_variable_is_sent_to_the_host_of_the_url_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(server.folder / "a.tar", range(3))
    monkeypatch.setenv("SHARDS_TOKEN", f" {SECRET}\n")
    allow(server.url, monkeypatch)
    server.token = SECRET
    with serving(server.folder) as elsewhere:
        server.redirects = {"far.tar": f"{elsewhere.url}/a.tar", "near.tar": f"{server.url}/a.tar"}

        far = open_shards(f"{server.url}/far.tar", token_env="SHARDS_TOKEN")
        near = open_shards(f"{server.url}/near.tar", token_env="SHARDS_TOKEN")

        assert captions_of(far) == captions_of(near) == ["image 0", "image 1", "image 2"]
        assert {sent for _, _, sent in server.requests} == {f"Bearer {SECRET}"}
        assert elsewhere.requests
        assert {sent for _, _, sent in elsewhere.requests} == {None}


def test_the_token_of_the_hub_is_sent_to_the_hub_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(server.folder / "a.tar", [0])
    monkeypatch.setenv("HF_TOKEN", SECRET)

    open_shards(f"{server.url}/a.tar")

    assert {sent for _, _, sent in server.requests} == {None}
    assert find_token("https://huggingface.co/datasets/a/b/resolve/main/0.tar", None) == SECRET
    assert find_token("https://huggingface.co:8443/0.tar", None) is None
    assert find_token("https://user.huggingface.co/0.tar", None) is None
    assert find_token("https://huggingface.co.evil.org/0.tar", None) is None
    assert find_token("https://example.org/0.tar", None) is None
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HUGGINGFACE_HUB_TOKEN", SECRET)
    assert find_token("https://huggingface.co/0.tar", None) == SECRET


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "the server requires a token (401)\n    hint  set SHARDS_TOKEN to a token: none was sent"),
        ("wrong" + SECRET, "the server requires a token (401)\n    status  the token in SHARDS_TOKEN was sent"),
        (SECRET + "\nX-Injected: 1", "SHARDS_TOKEN  cannot send the token in SHARDS_TOKEN to "),
        (SECRET + "é", ": it contains characters that no token has"),
    ],
)
def test_a_refused_token_is_reported_by_its_variable_and_never_shown(
    value: str | None, words: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(server.folder / "a.tar", [0])
    allow(server.url, monkeypatch)
    server.token = SECRET
    if value is not None:
        monkeypatch.setenv("SHARDS_TOKEN", value)

    text = report(f"{server.url}/a.tar", token_env="SHARDS_TOKEN")

    assert words in text
    assert SECRET not in text


def test_a_token_is_not_sent_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)
    allow("http://shards.invalid", monkeypatch)

    text = report("http://shards.invalid/a.tar?X-Signature=abc", token_env="SHARDS_TOKEN")

    assert text == (
        "SHARDS_TOKEN  cannot send the token in SHARDS_TOKEN to http://shards.invalid/a.tar: "
        "it would be sent unencrypted: use https, or unset the variable"
    )
    assert SECRET not in text
    assert "abc" not in text


def test_a_run_on_remote_shards_resumes_and_writes_the_token_to_no_file(
    server: Server, prove: Callable[..., RecipePlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_shard(server.folder / f"{number}.tar", range(6 * number, 6 * number + 6))
    allow(server.url, monkeypatch)
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)
    server.token = SECRET
    dataset = f"{{type: webdataset, shards: '{server.url}/{{0..1}}.tar', image_size: 16, token_env: SHARDS_TOKEN}}"
    recipe = prove(VAE_GAN, f"datasets.shapes={dataset}", "steps.vae_gan.epochs=1", "observers={console: false}")
    warnings: list[str] = []

    whole = start(recipe, tmp_path / "whole").run
    stopped = start(recipe, tmp_path / "often", [StopAfter("batch_ended", 2), Listener(warnings)])
    again = start(recipe, tmp_path / "often", [Listener(warnings)]).run

    assert stopped.stopped is not None
    assert finals(again) == finals(whole)
    assert warnings == []
    written_files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".tar"]
    assert written_files
    assert not [path for path in written_files if SECRET.encode() in path.read_bytes()]


def test_the_run_folder_names_the_variable_and_not_the_token(
    server: Server, prove: Callable[..., RecipePlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.check.effective_recipe import effective_recipe
    from fluxflow_registry.recipe import writer as resolved

    monkeypatch.setenv("SHARDS_TOKEN", SECRET)
    dataset = f"{{type: webdataset, shards: '{server.url}/a.tar', token_env: SHARDS_TOKEN}}"

    written_out = resolved.dump(effective_recipe(prove(VAE_GAN, f"datasets.shapes={dataset}")))

    assert "token_env: SHARDS_TOKEN" in written_out
    assert SECRET not in written_out


def test_a_source_does_not_contain_the_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(server.folder / "a.tar", [0])
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)
    allow(server.url, monkeypatch)

    source: ShardSource = WebDataset(shards=f"{server.url}/a.tar", token_env="SHARDS_TOKEN")()

    assert SECRET.encode() not in pickle.dumps(source)
