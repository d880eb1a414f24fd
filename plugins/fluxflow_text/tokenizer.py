"""A tokenizer without a vocabulary: words and punctuation, each hashed into several tables."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

_WORD = re.compile(r"\w+|[^\w\s]")


def words(caption: str) -> list[str]:
    """Split into lower-cased words and single punctuation marks; blanks only separate."""
    return _WORD.findall(caption.lower())


@lru_cache(maxsize=65_536)
def buckets(word: str, tables: int, size: int) -> tuple[int, ...]:
    """Rows of the word, one in each of `tables` tables of `size` rows.

    h_k(word) = blake2(word; key k) mod size. Two words that collide in one table differ in the
    others, so that a collision does no harm (Svenstrup et al., "Hash embeddings", 2017). The same
    in every process, unlike Python's own hash.
    """
    text = word.encode()
    return tuple(
        int.from_bytes(blake2b(text, digest_size=8, key=b"%d" % table).digest(), "big") % size
        for table in range(tables)
    )
