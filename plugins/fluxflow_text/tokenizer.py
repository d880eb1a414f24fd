"""A tokenizer without a vocabulary: words and punctuation, each hashed into several tables."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

_WORD = re.compile(r"\w+|[^\w\s]")


def words(caption: str) -> list[str]:
    """Split into lower-case words and single punctuation marks, without spaces."""
    return _WORD.findall(caption.lower())


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
