"""A token goes only where the user has allowed it, and no secret is in the files and messages of a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fluxflow_data.shards import requests
from fluxflow_data.shards.tokens import find_token, token_notes
from fluxflow_registry import DataError
from fluxflow_registry.check.checker import check
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.engine.run.folder import digest_of
from fluxflow_registry.recipe import writer
from fluxflow_registry.registry.discovery import load

from ..plugins.shard_files import write_shard
from ..plugins.shard_server import Server, serving, serving_shard
from ..small import VAE_GAN

SECRET = "Zq7SecretZq7"

#: What a command does with a recipe.
DOING: dict[str, list[str]] = {"check": ["--check"], "inspect": ["--inspect-data", "--samples", "2"], "train": []}

QUICK = ["steps.vae_gan.epochs=1", "steps.vae_gan.max_steps=1", "observers.graphs=false", "observers.report=false"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_ENDPOINT", "FLUXFLOW_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requests, "PAUSE", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_shard(tmp_path / "there", 4) as running:
        yield running


def arguments(url: str, *settings: str, **options: Any) -> list[str]:
    """The arguments of a command for a recipe with one dataset of shards."""
    Path("recipe.yaml").write_text(VAE_GAN)
    extra = "".join(f", {key}: {value}" for key, value in options.items())
    dataset = f"datasets.shapes={{type: webdataset, shards: '{url}', image_size: 16{extra}}}"
    return ["recipe.yaml", *(word for each in (dataset, *settings) for word in ("--set", each))]


def sent(*servers: Server) -> set[str | None]:
    """What servers were sent as authorization."""
    return {token for server in servers for _, _, token in server.requests}


@pytest.mark.parametrize("doing", DOING)
@pytest.mark.parametrize("allowed", ["", "example.org=CLOUD_SECRET", "127.0.0.1=CLOUD_SECRET", "{}=OTHER"])
def test_a_recipe_cannot_send_a_variable_to_a_server_that_the_user_has_not_allowed(
    allowed: str, doing: str, server: Server, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_SECRET", SECRET)
    monkeypatch.setenv("FLUXFLOW_TOKENS", allowed.format(urlsplit(server.url).netloc))

    answer = call(*arguments(f"{server.url}/a.tar", token_env="CLOUD_SECRET"), *DOING[doing])

    assert answer.code == 2
    assert sent(server) <= {None}
    assert SECRET not in answer.out + answer.err
    assert "the recipe requests the variable CLOUD_SECRET for 127.0.0.1:" in answer.err
    assert "export FLUXFLOW_TOKENS=" in answer.err
    assert not list(Path.cwd().glob("runs/*"))


@pytest.mark.parametrize("doing", DOING)
@pytest.mark.parametrize("named", [True, False])
def test_the_user_allows_a_variable_for_a_server(
    named: bool, doing: str, server: Server, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    monkeypatch.setenv("FLUXFLOW_TOKENS", f"example.org=OTHER, {urlsplit(server.url).netloc}=MY_TOKEN")
    server.token = SECRET

    options = {"token_env": "MY_TOKEN"} if named else {}
    answer = call(*arguments(f"{server.url}/a.tar", *QUICK, **options), *DOING[doing])

    assert answer.code == 0, answer.err
    assert sent(server) == {f"Bearer {SECRET}"}


def test_the_command_of_the_message_allows_it(
    server: Server, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    server.token = SECRET
    command = arguments(f"{server.url}/a.tar", token_env="MY_TOKEN")
    (problem,) = json.loads(call(*command, "--check", "--json").out)["problems"]
    (note,) = [each["text"] for each in problem["notes"] if each["label"] == "command"]

    monkeypatch.setenv("FLUXFLOW_TOKENS", note.removeprefix("export FLUXFLOW_TOKENS="))

    assert (problem["code"], problem["variable"]) == ("token-not-allowed", "MY_TOKEN")
    assert call(*command, "--check").code == 0


@pytest.mark.parametrize("allowed", ["first", "second"])
def test_a_redirect_brings_no_token_to_another_server(
    allowed: str, server: Server, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    with serving(server.folder) as other:
        other.redirects = {"far.tar": f"{server.url}/a.tar"}
        user = urlsplit((other if allowed == "first" else server).url).netloc
        monkeypatch.setenv("FLUXFLOW_TOKENS", f"{user}=MY_TOKEN")

        assert call(*arguments(f"{other.url}/far.tar"), "--check").code == 0

        assert sent(server) == {None}
        assert sent(other) == ({f"Bearer {SECRET}"} if allowed == "first" else {None})


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"])
@pytest.mark.parametrize("token_env", [None, "HF_TOKEN"])
def test_the_variables_of_the_hub_are_for_the_hub_of_the_user_alone(
    variable: str, token_env: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, SECRET)

    assert find_token("https://huggingface.co/a.tar", token_env) == SECRET
    others = "hub.internal huggingface.co.evil.org a.huggingface.co huggingface.co:444 evil.org/huggingface.co [::1]:1"
    for url in (f"https://{other}/a.tar" for other in others.split()):
        if token_env == variable:
            with pytest.raises(DataError, match="requests the variable"):
                find_token(url, token_env)
        else:
            assert find_token(url, token_env) is None
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.internal")
    assert find_token("https://hub.internal/a.tar", token_env) == SECRET


@pytest.mark.parametrize("entry", [SECRET, f"h={SECRET} x", f"=MY_TOKEN{SECRET}", f"h=a-b{SECRET}", f"h={SECRET}="])
def test_a_malformed_permission_is_reported_without_its_words(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_TOKENS", f"example.org=MY_TOKEN,{entry}")

    with pytest.raises(DataError, match=r"FLUXFLOW_TOKENS  entry [23] of FLUXFLOW_TOKENS must have") as caught:
        find_token("https://example.org/a.tar", None)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("doing", DOING)
@pytest.mark.parametrize("by", ["recipe", "set"])
def test_a_signature_is_in_no_file_and_no_output(
    by: str, doing: str, server: Server, call: Callable[..., Any], tmp_path: Path
) -> None:
    words = arguments(f"{server.url}/a.tar?X-Amz-Signature={SECRET}&x=1#{SECRET}", *QUICK)
    if by == "recipe":
        Path("recipe.yaml").write_text(VAE_GAN.replace("  shapes: {type: shapes, image_size: 16, length: 24}", (
            f"  shapes: {{type: webdataset, image_size: 16, shards: '{server.url}/a.tar?sig={SECRET}'}}"
        )))  # fmt: skip
        words = [words[0], *words[3:]]

    answers = [call(*words, *DOING[doing], *json_) for json_ in ([], ["--json"])]

    assert [answer.code for answer in answers] == [0, 0], answers[0].err
    assert not [each for each in answers if SECRET in each.out + each.err]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "recipe.yaml"]
    files += list(tmp_path.glob("runs/*/recipe.yaml"))
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    if doing == "train":
        recipe = next(tmp_path.glob("runs/*/recipe.yaml"))
        assert f"{server.url}/a.tar?***" in recipe.read_text()
        again = call(str(recipe), "--check")
        assert "whose query was removed: write it in full" in again.err


def test_a_renewed_signature_is_the_same_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    registry, digests = load(), []

    for url in (f"https://h/a.tar?sig={SECRET}&t=1", "https://h/a.tar?sig=another", "https://h/b.tar?sig=another"):
        path, _, setting = arguments(url)[:3]
        digests.append(digest_of(writer.plain(effective_recipe(check(path, registry, [setting])))))

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("doing", DOING)
@pytest.mark.parametrize(
    ("shown", "used"),
    [(f"hf_{SECRET}", True), (f"hf_{SECRET}", False), (SECRET, True), ("NO_SUCH_VARIABLE", True)],
)
def test_what_names_no_variable_is_an_error_before_training_and_is_not_repeated(
    shown: str, used: bool, doing: str, call: Callable[..., Any], tmp_path: Path
) -> None:
    write_shard(tmp_path / "a.tar", range(4))
    words = arguments("a.tar", *QUICK, token_env=shown)
    if not used:  # another dataset of the recipe, on which no step trains
        words = [word.replace("datasets.shapes=", "datasets.other=") for word in words]

    answer = call(*words, *DOING[doing])

    assert answer.code == 2
    name = shown if shown.isupper() else "***"
    assert f"`token_env` is `{name}`, but no environment variable with that name is set" in answer.err
    assert "set a variable to the token and write the name of the variable" in answer.err
    assert SECRET not in answer.out + answer.err
    assert not list(Path.cwd().glob("runs/*"))


@pytest.mark.parametrize("value", [f"hf_{SECRET}", f"[hf_{SECRET}]", f"'hf_{SECRET} x'", f"[[hf_{SECRET}]]"])
def test_no_problem_with_a_setting_shows_a_token_in_it(value: str, call: Callable[..., Any]) -> None:
    Path("recipe.yaml").write_text(VAE_GAN)
    setting = f"datasets.shapes={{type: webdataset, shards: a.tar, token_env: {value}, bad: 1}}"
    for flag in ("--check", "--validate"):
        answer = call("recipe.yaml", flag, "--set", setting)
        assert answer.code == 2
        assert SECRET not in answer.out + answer.err


def test_a_token_in_the_list_of_allowed_variables_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_TOKENS", f"example.org=hf_{SECRET}")

    assert token_notes("https://example.org/a.tar", None) == (("hint", "set *** to a token: none was sent"),)
