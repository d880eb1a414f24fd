"""Captions as tokens: words, and the characters of scripts that are written without spaces; no vocabulary is needed."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from hashlib import blake2b

_WORD = re.compile(r"\w+|[^\w\s]")

#: First and last characters of scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, Kana, Bopomofo,
#: Han and its extensions, and half-width Kana.
UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31A0, 0x31BF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)  # fmt: skip

#: The version with which new models are built.
NEWEST = 2

_FIRSTS = [first for first, _ in UNSPACED]


def words(caption: str, version: int = NEWEST) -> list[str]:
    """Split into lower-case words and single punctuation marks, without spaces.

    Version 1 takes everything between spaces and punctuation for a word, and each combining mark for punctuation.
    Version 2 takes each character of scripts without spaces for a word, composes characters (Unicode's form NFC), and
    keeps a combining mark with its letter. Both agree on ASCII and on composed words of scripts with spaces.
    """
    text = caption.lower()
    if version == 1 or text.isascii():
        return _WORD.findall(text)
    found: list[str] = []
    within, space = False, True  # whether the last character is in a word to be continued, and whether it is a space
    for character in unicodedata.normalize("NFC", text):
        if unicodedata.category(character).startswith("M") and found and not space:
            found[-1] += character
            continue
        space = character.isspace()
        letter = (character.isalnum() or character == "_") and not _is_unspaced(character)
        if letter and within:
            found[-1] += character
        elif not space:
            found.append(character)
        within = letter
    return found


def _is_unspaced(character: str) -> bool:
    at = bisect_right(_FIRSTS, ord(character)) - 1
    return at >= 0 and ord(character) <= UNSPACED[at][1]


@lru_cache(maxsize=65_536)
def buckets(word: str, tables: int, size: int) -> tuple[int, ...]:
    """Rows of the word, one in each of `tables` tables of `size` rows.

    h_k(word) = blake2(word; key k) mod size. Two words that collide in one table most likely differ in another
    (Svenstrup et al., "Hash embeddings", 2017). The result is the same in every process, unlike Python's own hash.
    """
    encoded = word.encode()
    return tuple(
        int.from_bytes(blake2b(encoded, digest_size=8, key=b"%d" % table).digest(), "big") % size
        for table in range(tables)
    )
