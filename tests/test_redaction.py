"""No secret of a URL is in a message, in JSON or in an exception, however the URL is malformed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fluxflow_data.shards.dataset import WebDataset
from fluxflow_data.shards.paths import find_shards
from fluxflow_registry import (
    DataError,
    Default,
    Flag,
    Place,
    Problem,
    RecipeError,
    one_line,
    printable,
    redact,
    to_json,
)
from fluxflow_registry.check.checker import check
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from .small import VAE_GAN

#: Every secret of a URL contains it, with anything around it.
SECRET = "Zq7SecretZq7"

JUNK = st.text(st.sampled_from(list(" \0\n\t`'\"{}[](),;:/\\?#@&=%+*<>|^~é$0aZ")), max_size=6)

SCHEMES = st.sampled_from(
    [
        "https://",
        "http://",
        "http:/",
        "https:\\\\",
        "HTTPS://",
        "{http,x}://",
        "http[s]://",
        " https://",
        "s3://",
        "x:/",
    ]
)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL with a secret in its query, its fragment or its user info, and with characters that no URL has."""
    path = draw(st.sampled_from(["/a.tar", "/a b.tar", "/{0..3}.tar", "/a\0b\n.tar", ""]))
    secret = draw(JUNK) + SECRET + draw(JUNK)
    where = draw(st.sampled_from(["query", "fragment", "password", "both"]))
    user = f"user:p{secret}w@" if where in ("password", "both") else ""
    rest = f"?X-Amz-Signature={secret}" if where in ("query", "both") else f"#{secret}" if where == "fragment" else ""
    return f"{draw(SCHEMES)}{user}h.example{path}{rest}"


@given(urls())
@example(f"https://h/a.tar?{SECRET}")
@example(f"https://h/a b.tar?sig=x {SECRET}")
@example(f"https://h/a.tar?a=\0{SECRET}\n{SECRET}")
@example(f"http:/h/a.tar?{SECRET}")
@example(f"{{http,x}}://user:{SECRET}@h/a.tar")
@example(f"https://user:a/{SECRET}@h/a.tar")
@example(f"https://user:a?{SECRET}@h/a.tar?{SECRET}")
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    problem = Problem(
        f"the value `{url}` is wrong: see `x`",
        Place("recipe.yaml", 1, 2, key=f"datasets.{url}"),
        [("cause", f"ValueError: '{url}' is not valid"), ("requested by", Place(url))],
        code="invalid-value",
        subject=url,
    )
    flag = Problem(
        "it is wrong", Flag("--set", f"datasets.far.shards={url}"), code="x", subject=url, choices=[url, "a"]
    )
    error = DataError([problem, flag])
    path = Path(url)
    named = f"file `{path.name}` does not exist"
    placed = Problem(named, str(path), code="missing-file", subject=path.name)

    shown = [
        redact(url), printable(f"`{url}`"), json.dumps(to_json({"a": [url]})), one_line(ValueError(f"'{url}'")),
        str(problem), json.dumps(problem.as_json()), str(error), repr(error), str(placed), repr(placed),
        json.dumps(placed.as_json()), json.dumps(flag.as_json()), repr(flag), str(Default(url)),
    ]  # fmt: skip

    try:
        WebDataset(shards=url)
    except ValueError as rejected:
        shown.append(str(rejected))
    else:
        problems: list[Problem] = []
        find_shards([url], problems)
        shown += [repr(each) for each in problems]

    assert not [text for text in shown if SECRET in text]
    assert redact(redact(url)) == redact(url)


@pytest.mark.parametrize(
    "text",
    [
        "https://h.example:8443/{000..012}.tar",
        "http://[::1]:80/a.tar",
        "data/shard-?.tar",
        "a caption: two cats, what else?",
        "models.text.max_tokens=77",
        "export FLUXFLOW_TOKENS='example.org=MY_TOKEN'",
        "the value `x` is read at 10:15, see a.yaml:3:4",
    ],
)
def test_what_is_not_a_secret_is_shown_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert printable(text) == text


def test_redacting_takes_time_in_proportion_to_the_length() -> None:
    for text in (":/" * 10**5, "a" * 10**5 + "?@", "a:" * 10**5, "a:@" * 10**5, "`?" * 10**5, "token=" * 10**5):
        assert len(redact(text)) <= 2 * len(text) + 3, "and it returns"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load()


@pytest.mark.parametrize(
    "url",
    [
        f"https://h/a.tar?sig={SECRET}",
        f"https://h/a b.tar?sig={SECRET}",
        f"https://h/a.tar?sig=a {SECRET}",
        f"https://h/\\0a.tar?sig={SECRET}",
        f"https://h/a.tar?sig=\\n{SECRET}",
        f"http:/h/a.tar?sig={SECRET}",
        f"{{http,x}}://user:{SECRET}@h/a.tar",
        f"https://user:{SECRET}@h/a.tar",
        f"https://user:a/{SECRET}@h/a.tar",
        f"https://h/{{0..999999}}.tar?sig={SECRET}",
        f"http[s]://user:{SECRET}@h/a.tar",
    ],
)
@pytest.mark.parametrize("key", ["shards", "image_size", "shard", "token_env", "caption_key"])
def test_no_problem_of_a_recipe_shows_a_secret(url: str, key: str, registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    entry = f'{{type: webdataset, shards: x.tar, image_size: 16, {key}: "{url}"}}'.replace(
        "shards: x.tar, image_size: 16, shards", "image_size: 16, shards"
    ).replace("image_size: 16, image_size", "image_size")
    written = re.sub(r"(?s)datasets:.*?\n(?=\w)", f"datasets:\n  shapes: {entry}\n", VAE_GAN)
    assert SECRET in written
    path.write_text(written)

    texts = []
    for recipe, settings in ((written, []), (VAE_GAN, [f"datasets.shapes={entry}"])):
        path.write_text(recipe)
        try:
            check(path, registry, settings)
        except RecipeError as error:
            texts += [str(error), repr(error), json.dumps([each.as_json() for each in error.problems])]

    assert not [text for text in texts if SECRET in text]
    assert texts or key == "caption_key" or url.startswith("https://h/a.tar?sig=Z"), "it is rejected, by two ways"
