"""Shards on a server are read by parts, found changed, and asked for with a token that stays where it belongs."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from fluxflow_data.shards.dataset import ShardSource, WebDataset
from fluxflow_data.shards.remote import download, requests
from fluxflow_registry import DataError
from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.plan.steps import RecipePlan

from ..engine.conftest import StopAfter, start
from ..engine.test_resume import Listener, finals
from ..small import VAE_GAN
from .shard_files import SIZE, captions, opened, png, sample, shard, with_json, written
from .shard_server import Server, serving

SECRET = "hf_thesecretthatnobodymaysee"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "SHARDS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requests, "PAUSE", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "there").mkdir()
    with serving(tmp_path / "there") as made:
        yield made


def problem(*urls: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        opened(*urls, **options)
    return str(caught.value)


def test_what_webdataset_writes_is_read_from_a_server_within_two_seconds(server: Server) -> None:
    for number in range(3):
        with webdataset.TarWriter(str(server.folder / f"{number}.tar")) as writer:
            for key in range(200):
                content = {"__key__": f"k{key:04}", "png": png(key), "txt": f"picture {number} {key}"}
                writer.write(content)
    begun = time.monotonic()

    source = opened(f"{server.url}/{{0..2}}.tar")
    batch = next(iter(epoch_batches(source, 16, len(source) // 16, 0, 0, ("step", 0))))

    assert time.monotonic() - begun < 2
    assert len(source) == 600
    assert torch.as_tensor(batch.fields["image"]).shape == (16, 3, SIZE, SIZE)
    assert source.name(200) == f"{server.url}/1.tar:k0000"


def test_a_remote_shard_gives_what_the_same_file_gives(server: Server) -> None:
    paths = [shard(server.folder / f"{n}.tar", range(5 * n, 5 * n + 5)) for n in range(2)]

    near, far = opened(*paths, flip=0.5), opened(f"{server.url}/0.tar", f"{server.url}/1.tar", flip=0.5)

    assert near.digest == far.digest
    for indices in (range(10), [7, 0, 3]):
        one, other = near.batch(indices, 3), far.batch(indices, 3)
        assert torch.equal(torch.as_tensor(one["image"]), torch.as_tensor(other["image"]))
        assert one["caption"] == other["caption"]
    copy = pickle.loads(pickle.dumps(far))
    assert copy.batch([4], 0)["caption"] == ["picture 4"]


def test_captions_come_from_json_members_too(server: Server) -> None:
    written(server.folder / "a.tar", with_json(0, {"caption": "a cat"}))

    assert captions(opened(f"{server.url}/a.tar", caption_key="json.caption")) == ["a cat"]


def test_only_what_is_needed_comes_over_the_line(server: Server) -> None:
    members = {name: data for n in range(8) for name, data in sample(n, extra=b"x" * 400_000).items()}
    path = written(server.folder / "a.tar", members)

    source = opened(f"{server.url}/a.tar")
    server.asked.clear()
    source.batch([2, 5], 0)

    assert len(server.asked) == 2, "picture and caption lie side by side and come in one request"
    asked = [part for _, part, _ in server.asked if part]
    spans = [[int(end) for end in part.removeprefix("bytes=").split("-")] for part in asked]
    assert sum(stop - start + 1 for start, stop in spans) < path.stat().st_size / 100


def test_a_second_opening_asks_once_for_each_shard(server: Server) -> None:
    for number in range(3):
        shard(server.folder / f"{number}.tar", [number])
    urls = [f"{server.url}/{number}.tar" for number in range(3)]
    first = opened(*urls)
    server.asked.clear()

    second = opened(*urls)

    assert sorted(path for path, _, _ in server.asked) == ["0.tar", "1.tar", "2.tar"]
    assert {part for _, part, _ in server.asked} == {"bytes=0-0"}
    assert captions(second) == captions(first)


@pytest.mark.parametrize("how", ["content", "etag", "shorter", "gone"])
def test_a_shard_that_changes_after_opening_is_refused_by_name(how: str, server: Server) -> None:
    path = shard(server.folder / "a.tar", range(30))
    source = opened(f"{server.url}/a.tar")
    if how == "content":
        shard(path, range(40))
    elif how == "etag":
        server.etags["a.tar"] = '"another"'
    elif how == "shorter":
        path.write_bytes(path.read_bytes()[:1024])
    else:
        path.unlink()

    with pytest.raises(
        DataError, match=r"http://127.0.0.1:\d+/a\.tar  (has changed|there is no such shard|is shorter)"
    ):
        source.batch([20], 0)


def test_a_shard_that_has_changed_between_two_runs_is_indexed_anew(server: Server) -> None:
    path = shard(server.folder / "a.tar", range(3))
    opened(f"{server.url}/a.tar")
    shard(path, range(5))

    assert len(opened(f"{server.url}/a.tar")) == 5


@pytest.mark.parametrize("failure", [503, 429, 0])
def test_what_passes_is_tried_again(failure: int, server: Server) -> None:
    shard(server.folder / "a.tar", range(4))
    source = opened(f"{server.url}/a.tar")
    server.failure, server.failing = failure, requests.ATTEMPTS - 1

    assert captions(source) == [f"picture {number}" for number in range(4)]


@pytest.mark.parametrize(
    ("failure", "words"), [(503, "the server answers 503, 5 times in a row"), (0, "breaks off, 5")]
)
def test_what_does_not_pass_is_told(failure: int, words: str, server: Server) -> None:
    shard(server.folder / "a.tar", [0])
    source = opened(f"{server.url}/a.tar")
    server.failure, server.failing = failure, 99

    with pytest.raises(DataError, match=words):
        source.batch([0], 0)


def test_a_server_that_is_not_there_and_a_shard_that_is_not_there_are_told_together(server: Server) -> None:
    with serving(server.folder) as gone:
        pass

    said = problem(f"{gone.url}/a.tar", f"{server.url}/b.tar")

    assert f"{gone.url}/a.tar  not reached: Connection refused, 5 times in a row" in said
    assert f"{server.url}/b.tar  there is no such shard (404)" in said


def test_a_server_that_says_nothing_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(requests, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = problem(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar")

    assert "no answer within 0.05 s, 5 times in a row" in said


def test_a_cut_remote_shard_is_found_before_training(server: Server) -> None:
    path = shard(server.folder / "a.tar", range(4))
    path.write_bytes(path.read_bytes()[: 9 * 512])

    assert f"{server.url}/a.tar  is cut" in problem(f"{server.url}/a.tar")


def test_a_server_without_parts_has_its_shards_fetched_whole_once(server: Server) -> None:
    server.ranges = False
    shard(server.folder / "a.tar", range(4))

    first = opened(f"{server.url}/a.tar")
    asked = len(server.asked)
    second = opened(f"{server.url}/a.tar")

    assert captions(first) == captions(second) == [f"picture {number}" for number in range(4)]
    home = server.folder.parent / "home"
    assert first.notes == [
        f"1 of 1 shards were fetched whole into {home}/shards, as their server gives no parts of files"
    ]
    assert first.name(1) == f"{server.url}/a.tar:0001"
    assert len(server.asked) == asked + 1
    assert not list((server.folder.parent / "home").rglob("*.fetching"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_breaks_off_goes_on(ranges: bool, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CHUNK", 512)
    server.ranges, server.failure = ranges, 0
    shard(server.folder / "a.tar", range(8))
    server.failing = 2

    source = opened(f"{server.url}/a.tar", fetch=True)

    assert captions(source) == [f"picture {number}" for number in range(8)]
    assert not source.corpus.paths[0].startswith("http")
    assert source.notes == []


def test_more_than_the_limit_is_not_fetched(server: Server) -> None:
    shard(server.folder / "a.tar", range(8))
    server.ranges = False
    known = problem(f"{server.url}/a.tar", fetch_limit=1e-6)
    assert len(server.asked) == 1, "its length is known before it is fetched"
    server.lengths = False
    unknown = problem(f"{server.url}/a.tar", fetch_limit=1e-6)

    assert "has to be fetched whole (0.0 GiB), and `fetch_limit` leaves 0.0 GiB for it" in known
    assert "has to be fetched whole (more), and `fetch_limit` leaves 0.0 GiB for it" in unknown
    assert not list((server.folder.parent / "home").rglob("*.tar*"))


def test_problems_of_a_fetched_shard_name_its_url(server: Server) -> None:
    written(server.folder / "a.tar", {**sample(0), "1.png": png(1)})

    said = problem(f"{server.url}/a.tar", fetch=True)

    assert f"{server.url}/a.tar:1  has no caption" in said


def test_buckets_of_remote_pictures_are_known(server: Server) -> None:
    shard(server.folder / "a.tar", range(4))

    source = opened(f"{server.url}/a.tar", bucket_multiple=8)

    assert source.sizes().tolist() == [[SIZE, SIZE]] * 4
    assert source.corpus.paths[0].endswith(".tar")
    assert source.notes[0].endswith("as `bucket_multiple` needs the size of every picture")


def test_the_token_of_the_named_variable_is_sent_to_the_host_of_the_url_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(server.folder / "a.tar", range(3))
    monkeypatch.setenv("SHARDS_TOKEN", f" {SECRET}\n")
    server.token = SECRET
    with serving(server.folder) as elsewhere:
        server.redirects = {"far.tar": f"{elsewhere.url}/a.tar", "near.tar": f"{server.url}/a.tar"}

        far = opened(f"{server.url}/far.tar", token_env="SHARDS_TOKEN")
        near = opened(f"{server.url}/near.tar", token_env="SHARDS_TOKEN")

        assert captions(far) == captions(near) == ["picture 0", "picture 1", "picture 2"]
        assert {sent for _, _, sent in server.asked} == {f"Bearer {SECRET}"}
        assert elsewhere.asked
        assert {sent for _, _, sent in elsewhere.asked} == {None}


def test_the_hubs_token_goes_to_the_hub_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(server.folder / "a.tar", [0])
    monkeypatch.setenv("HF_TOKEN", SECRET)

    opened(f"{server.url}/a.tar")

    assert {sent for _, _, sent in server.asked} == {None}
    assert requests._token("https://huggingface.co/datasets/a/b/resolve/main/0.tar", None) == SECRET
    assert requests._token("https://huggingface.co.evil.org/0.tar", None) is None
    assert requests._token("https://example.org/0.tar", None) is None
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HUGGINGFACE_HUB_TOKEN", SECRET)
    assert requests._token("https://huggingface.co/0.tar", None) == SECRET


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "the server wants a token (401)\n    token  none was sent: SHARDS_TOKEN not set"),
        ("wrong" + SECRET, "the server wants a token (401)\n    token  sent, from SHARDS_TOKEN"),
        (SECRET + "\nX-Injected: 1", "the variable SHARDS_TOKEN holds no token: it has characters that none has"),
        (SECRET + "é", "the variable SHARDS_TOKEN holds no token"),
    ],
)
def test_a_refused_token_is_told_by_its_variable_and_never_shown(
    value: str | None, words: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(server.folder / "a.tar", [0])
    server.token = SECRET
    if value is not None:
        monkeypatch.setenv("SHARDS_TOKEN", value)

    said = problem(f"{server.url}/a.tar", token_env="SHARDS_TOKEN")

    assert words in said
    assert SECRET not in said


def test_a_token_is_not_sent_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)

    said = problem("http://shards.invalid/a.tar?X-Signature=abc", token_env="SHARDS_TOKEN")

    assert "http://shards.invalid/a.tar  the token in SHARDS_TOKEN would be sent unencrypted; use https" in said
    assert SECRET not in said
    assert "abc" not in said


def test_a_run_on_remote_shards_resumes_and_leaves_the_token_nowhere(
    server: Server, prove: Callable[..., RecipePlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        shard(server.folder / f"{number}.tar", range(6 * number, 6 * number + 6))
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)
    server.token = SECRET
    dataset = f"{{type: webdataset, shards: '{server.url}/{{0..1}}.tar', image_size: 16, token_env: SHARDS_TOKEN}}"
    recipe = prove(VAE_GAN, f"datasets.shapes={dataset}", "steps.vae_gan.epochs=1", "observers={console: false}")
    heard: list[str] = []

    whole = start(recipe, tmp_path / "whole").run
    stopped = start(recipe, tmp_path / "often", [StopAfter("batch_ended", 2), Listener(heard)])
    again = start(recipe, tmp_path / "often", [Listener(heard)]).run

    assert stopped.stopped is not None
    assert finals(again) == finals(whole)
    assert heard == []
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


def test_a_source_holds_no_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(server.folder / "a.tar", [0])
    monkeypatch.setenv("SHARDS_TOKEN", SECRET)

    source: ShardSource = WebDataset(shards=f"{server.url}/a.tar", token_env="SHARDS_TOKEN")()

    assert SECRET.encode() not in pickle.dumps(source)
