"""Captions of every script have tokens from which something can be learned, and old weights keep their own."""

from __future__ import annotations

import copy
import re
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_text.models import TextTransformerBuilder
from fluxflow_text.networks import TextTransformer
from fluxflow_text.tokenization import words

#: What version 1 was.
OLD = re.compile(r"\w+|[^\w\s]")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("赤い円、白い背景", ["赤", "い", "円", "、", "白", "い", "背", "景"]),
        ("一只猫在沙发上。", ["一", "只", "猫", "在", "沙", "发", "上", "。"]),
        ("カメラを持つ cat", ["カ", "メ", "ラ", "を", "持", "つ", "cat"]),
        ("が", ["が"]),
        ("か\u3099", ["が"]),
        ("แมวสีแดง", ["แ", "ม", "ว", "สี", "แ", "ด", "ง"]),
        ("빨간 원", ["빨간", "원"]),
        (unicodedata.normalize("NFD", "빨간 원"), ["빨간", "원"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301, A\u030angström", ["café", ",", "ångström"]),
        ("İstanbul", ["i\u0307stanbul"]),
        ("e\u0323\u0301x", ["ẹ\u0301x"]),
        ("❤\ufe0f \u0301x", ["❤\ufe0f", "\u0301", "x"]),
        ("東京2024", ["東", "京", "2024"]),
        ("\U00020000\U00020001", ["\U00020000", "\U00020001"]),
        ("a_b-c", ["a_b", "-", "c"]),
    ],
)
def test_a_caption_is_split_into_what_can_be_learned(caption: str, expected: list[str]) -> None:
    assert words(caption) == expected


def is_settled(text: str) -> bool:
    """Whether both versions have to agree: composed, without combining marks, of scripts with spaces."""
    lower = text.lower()
    plain = all(ord(each) < 0x0E00 and not unicodedata.category(each).startswith("M") for each in lower)
    return plain and unicodedata.is_normalized("NFC", lower)


@given(st.text(st.characters(max_codepoint=0x2FF) | st.characters(max_codepoint=0xDFF), max_size=30))
def test_composed_words_of_scripts_with_spaces_are_those_of_version_1(text: str) -> None:
    if is_settled(text):
        assert words(text) == OLD.findall(text.lower())
    assert words(text, version=1) == OLD.findall(text.lower())


@given(st.text(max_size=30))
def test_every_form_of_a_text_has_the_same_tokens(text: str) -> None:
    forms = {tuple(words(unicodedata.normalize(form, text.lower()))) for form in ("NFC", "NFD")}

    assert len(forms) == 1
    assert all(token and not token.isspace() for token in words(text))


DIFFERENT = ["赤い円", "cafe\u0301", "हिन्दी"]


@pytest.mark.parametrize("caption", DIFFERENT)
def test_weights_of_an_earlier_version_keep_their_tokens_bit_by_bit(caption: str) -> None:
    new = TextTransformerBuilder(width=16)().eval()
    state = {key: value for key, value in new.state_dict().items() if key != "tokenization"}
    old = TextTransformerBuilder(width=16)().eval()

    old.load_state_dict(state)

    assert old.tokenization == 1
    assert old([caption]).tokens.shape[1] == 1 + len(OLD.findall(caption))
    assert old.state_dict().keys() == state.keys(), "saved as it was, so that the earlier version reads it too"
    assert not torch.equal(old([caption]).tokens.mean(1), new([caption]).tokens.mean(1))
    assert torch.equal(old(["a red circle"]).tokens, new(["a red circle"]).tokens)


@pytest.mark.parametrize("version", [1, 2])
def test_the_tokenization_travels_with_the_weights(version: int) -> None:
    source, target = TextTransformerBuilder(width=16)(), TextTransformerBuilder(width=16)()
    assert isinstance(source, TextTransformer)
    source.tokenization, target.tokenization = version, 3 - version  # type: ignore[assignment]

    target.load_state_dict({key: value.clone() for key, value in source.state_dict().items()})
    copied = copy.deepcopy(target)
    inner = torch.nn.ModuleDict({"text": TextTransformerBuilder(width=16)()})
    inner.load_state_dict({f"text.{key}": value for key, value in copied.state_dict().items()})

    assert {int(model.tokenization) for model in (target, copied, inner["text"])} == {version}  # type: ignore[arg-type]


def test_new_weights_have_the_newest_tokenization_also_on_the_meta_device() -> None:
    with torch.device("meta"):
        meta = TextTransformerBuilder(width=16)()
        state = meta.state_dict()

    assert state["tokenization"].item() == 2
    meta.load_state_dict(state, assign=True)
    assert meta.tokenization == 2
