"""Which levels of a UNet have attention."""

from __future__ import annotations

from collections.abc import Sequence


def attention_levels(channel_mults: Sequence[int], attention: Sequence[int] | None) -> list[int]:
    """The levels with attention: those that are named, else all but the finest of several."""
    if attention is not None:
        return list(attention)
    return list(range(1, len(channel_mults))) or [0]
