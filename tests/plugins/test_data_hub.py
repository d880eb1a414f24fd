"""Shards on the Hugging Face hub: `hf://` paths and wildcards in them, listed by a server as the hub lists files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxflow_data.shards.dataset import WebDataset
from fluxflow_data.shards.hub import ENDPOINT, HubPath, matches
from fluxflow_data.shards.paths import find_shards
from fluxflow_registry import DataError, Problem

from .shard_server import Server, serving

HUB = "hf://datasets/someone/pictures"
FILES = ("data/00.tar", "data/01.tar", "data/notes.txt", "data/more/02.tar", "03.tar")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the listings of a repository."""
    api = tmp_path / "api" / "datasets" / "someone" / "pictures" / "tree" / "main"
    write(
        api / "data",
        [name for name in FILES if name.startswith("data/") and name.count("/") == 1],
        folders=["data/more"],
    )
    with serving(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        yield server


def write(path: Path, names: list[str], folders: list[str] | None = None) -> None:
    """Write a page of a listing, as the hub returns it."""
    rows: list[Any] = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in names]
    rows += [{"type": "directory", "path": name} for name in folders or ()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def found(*entries: str) -> tuple[list[str], list[Problem]]:
    problems: list[Problem] = []
    return find_shards(entries, problems), problems


@pytest.mark.parametrize(
    ("entry", "urls"),
    [
        ("data/00.tar", ["main/data/00.tar"]),
        ("data/{00..01}.tar", ["main/data/00.tar", "main/data/01.tar"]),
        ("a b/ü.tar", ["main/a%20b/%C3%BC.tar"]),
    ],
)
def test_a_path_without_wildcards_is_a_file_of_the_hub_without_a_request(
    entry: str, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)

    shards, problems = found(f"{HUB}/{entry}")

    assert shards == [f"{ENDPOINT}/datasets/someone/pictures/resolve/{url}" for url in urls]
    assert problems == []


def test_a_revision_is_part_of_the_url() -> None:
    (url,) = HubPath.parse("hf://datasets/someone/pictures@refs%2Fpr%2F1/a.tar").urls(None)

    assert url.endswith("/datasets/someone/pictures/resolve/refs%252Fpr%252F1/a.tar")


def test_a_wildcard_stands_for_the_files_that_the_hub_lists(hub: Server) -> None:
    shards, problems = found(f"{HUB}/data/*.tar")

    root = f"{hub.url}/datasets/someone/pictures/resolve/main"
    assert shards == [f"{root}/data/00.tar", f"{root}/data/01.tar"]
    assert problems == []
    assert [request[0] for request in hub.requests] == ["api/datasets/someone/pictures/tree/main/data"]


def test_a_list_of_several_pages_is_read_to_its_end(hub: Server, tmp_path: Path) -> None:
    page = "api/datasets/someone/pictures/tree/main/data"
    hub.links[page] = f'<{hub.url}/{page}-2?cursor=x>; rel="next"'
    write(tmp_path / f"{page}-2", ["data/02.tar"])

    shards, _ = found(f"{HUB}/data/*.tar")

    assert [shard.rpartition("/")[2] for shard in shards] == ["00.tar", "01.tar", "02.tar"]


@pytest.mark.parametrize(
    ("content", "link", "cause"),
    [
        ("[]", "", "no file matches"),
        ('[{"type": "file", "path": 7}]', "", "no file matches"),
        ("<html>", "", "the server did not return a list of files"),
        ('{"error": "x"}', "", "the server did not return a list of files"),
        ("[1, 2]", "", "the server did not return a list of files"),
        ("[" * 100_000, "", "the server did not return a list of files"),
        ("[]", '<https://elsewhere.example/x>; rel="next"', "the list continues on another server"),
        ("[]", '<http://[::1/x>; rel="next"', "the list continues at an address that is not valid"),
        ("[]", '<?page=2>; rel="next"', "the list has more than"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_problem(
    content: str, link: str, cause: str, hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxflow_data.shards.hub.PAGES", 3)
    page = "api/datasets/someone/pictures/tree/main/data"
    (tmp_path / page).write_text(content)
    hub.links |= {page: link} if link else {}

    shards, (problem,) = found(f"{HUB}/data/*.tar")

    assert shards == []
    assert cause in problem.message
    assert f"{HUB}/data/*.tar" in problem.message


def test_a_path_of_a_thousand_folders_matches_nothing(hub: Server, tmp_path: Path) -> None:
    write(tmp_path / "api/datasets/someone/pictures/tree/main/data", ["a/" * 5000 + "b.tar"])

    shards, (problem,) = found(f"{HUB}/data/**/x/*.tar")

    assert shards == []
    assert problem.code == "missing-file"


def test_a_repository_that_does_not_exist_is_one_problem(hub: Server) -> None:
    shards, (problem,) = found("hf://datasets/someone/else/*.tar")

    assert shards == []
    assert problem.code == "missing-file"


@pytest.mark.parametrize(("variable", "sent"), [("HF_TOKEN", "Bearer hf_secret"), ("OTHER_TOKEN", None)])
def test_the_list_is_requested_with_the_token_of_the_hub_and_no_other(
    variable: str, sent: str | None, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "hf_secret")

    found(f"{HUB}/data/*.tar")

    assert [authorization for _, _, authorization in hub.requests] == [sent]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("hf://datasets/someone/*.tar", "on the hub, a path has the form `hf://datasets/OWNER/NAME/data/*.tar`"),
        ("hf://models/a/b/c.tar", "on the hub, a path has the form"),
        ("https://example.org/data/*.tar", "the files of a server cannot be listed"),
        ("pipe:aws s3 cp s3://a/b.tar -", "a recipe cannot run commands"),
    ],
)
def test_an_entry_that_names_no_shards_is_rejected_before_any_request(entry: str, words: str) -> None:
    with pytest.raises(ValueError, match="shards") as caught:
        WebDataset(shards=entry)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "pattern", "matching"),
    [
        ("data/00.tar", "data/*.tar", True),
        ("data/more/02.tar", "data/*.tar", False),
        ("data/more/02.tar", "data/**/*.tar", True),
        ("data/00.tar", "data/**/*.tar", True),
        ("data/00.tar", "*/0[0-4].tar", True),
        ("data/09.tar", "*/0[0-4].tar", False),
        ("03.tar", "*/*.tar", False),
    ],
)
def test_a_wildcard_stays_within_a_folder(name: str, pattern: str, matching: bool) -> None:
    assert matches(name.split("/"), pattern.split("/")) is matching


def test_a_server_that_is_not_there_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("fluxflow_data.shards.requests.ATTEMPTS", 1)

    with pytest.raises(DataError):
        WebDataset(shards=f"{HUB}/data/*.tar")()
