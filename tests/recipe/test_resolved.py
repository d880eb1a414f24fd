"""What is written out is read back as it was, whatever a recipe's texts and numbers are."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.recipe.writer import dump, plain

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9).filter("<<".__ne__), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True)


@given(st.dictionaries(keys, values, min_size=1, max_size=4), st.text(max_size=8))
@example({"a": "\x85"}, "")
@example({"0": {":0": None}}, "")
@example({"a": "\u2028", "b": ["\t", " x ", "a: b", "# c", "'", '"', "!x", "&x", "*x", "-", "", "1e3", "null"]}, "")
def test_a_written_value_is_read_back_as_it_was(tree: dict[str, Any], origin: str) -> None:
    expected = {key: (value, origin) if not isinstance(value, dict) else value for key, value in tree.items()}
    expected = {key: (value, origin) if isinstance(value, dict) else value for key, value in expected.items()}

    written = dump(expected)

    assert parse(written, "r.yaml").plain() == plain(expected) == tree
