"""The text encoder needs no vocabulary, and the embedding of a caption does not depend on its batch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_registry import Notice
from fluxflow_text.models import TextTransformerBuilder
from fluxflow_text.networks import buckets, words

captions = st.lists(
    st.lists(st.sampled_from(["a", "red", "Circle", "naïve", "東京", ",", "."]), max_size=9).map(" ".join),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, deadline=None)
@given(captions, captions)
def test_the_embedding_of_a_caption_does_not_depend_on_other_captions(batch: list[str], others: list[str]) -> None:
    encoder = TextTransformerBuilder(width=16)().eval()

    alone = encoder(batch)
    together = encoder([*batch, *others, "a caption that is longer than all of the others by many words"])

    length = alone.tokens.shape[1]
    assert torch.equal(together.mask[: len(batch), :length], alone.mask)
    assert not together.mask[: len(batch), length:].any()
    assert torch.allclose(together.tokens[: len(batch), :length], alone.tokens, atol=1e-5)
    assert (together.tokens[~together.mask] == 0).all()


def test_the_empty_caption_has_an_embedding() -> None:
    encoder = TextTransformerBuilder()()

    embedding = encoder(["", "   "])

    assert embedding.tokens.shape == (2, 1, 128)
    assert embedding.mask.all()
    assert torch.isfinite(embedding.tokens).all()
    assert embedding.tokens.abs().sum() > 0
    assert torch.equal(embedding.tokens[0], embedding.tokens[1])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a red circle", "A  RED   circle", True),
        ("a red circle", "a blue circle", False),
        ("red on white", "white on red", False),
        ("a circle, white", "a circle white", False),
    ],
)
def test_case_and_spaces_have_no_effect_but_words_their_order_and_commas_do(one: str, other: str, same: bool) -> None:
    encoder = TextTransformerBuilder()().eval()

    first, second = (encoder([caption]).tokens.mean(dim=1) for caption in (one, other))

    assert torch.allclose(first, second) == same


def test_words_beyond_max_words_are_dropped() -> None:
    encoder = TextTransformerBuilder(max_words=4)()

    with pytest.warns(Notice, match="reads 4 words of a caption, and some captions are longer: they are truncated"):
        embedding = encoder(["one two three four five six"])

    assert embedding.tokens.shape[1] == 5
    assert encoder(["one two three four"]).tokens.shape[1] == 5


@given(st.text(max_size=40))
def test_every_string_can_be_tokenized(text: str) -> None:
    found = words(text)

    assert all(word and not word.isspace() for word in found)
    assert "".join(found) == "".join(text.lower().split()) or not text.isascii()


def test_a_word_has_the_same_rows_in_every_process() -> None:
    program = "from fluxflow_text.networks import buckets; print(buckets('circle', 2, 2048))"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == str(buckets("circle", 2, 2048))


def test_words_that_collide_in_one_table_differ_in_two() -> None:
    vocabulary = [f"word{number}" for number in range(200)]

    one = {buckets(word, 1, 2048) for word in vocabulary}
    two = {buckets(word, 2, 2048) for word in vocabulary}

    assert len(one) < len(vocabulary) == len(two)


def test_the_gradient_reaches_every_weight_of_the_encoder() -> None:
    encoder = TextTransformerBuilder(width=16)()

    encoder(["a red circle", ""]).tokens.square().mul(torch.randn(16)).sum().backward()

    assert not [name for name, weight in encoder.named_parameters() if weight.grad is None]


def test_heads_that_do_not_divide_the_width_are_rejected() -> None:
    with pytest.raises(ValueError, match="it must divide width"):
        TextTransformerBuilder(width=10, heads=4)
