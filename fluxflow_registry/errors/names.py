"""Names that were probably meant: the nearest valid one, and what is available."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from attrs import frozen

#: How many names an `available` line shows before it is shortened.
LISTED = 24


@frozen
class Choices:
    """What an unknown name could have been: the valid name nearest to it, and every valid name."""

    nearest: str | None
    available: tuple[str, ...]
    #: Shown after the nearest name: the plugin that it comes from, for one.
    detail: str = ""

    @classmethod
    def of(cls, name: str, names: Iterable[str]) -> Choices:
        """The choices of someone who wrote `name` where one of `names` is valid."""
        valid = tuple(sorted(names))
        return cls(nearest(name, valid), valid)

    def rows(self) -> list[tuple[str, str]]:
        """The choices as labelled rows."""
        shown = ", ".join(self.available[:LISTED]) + (", ..." if len(self.available) > LISTED else "")
        near = [("nearest", f"{self.nearest}   {self.detail}".rstrip())] if self.nearest is not None else []
        return [*near, ("available", shown or "nothing")]


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` was probably meant to be, or None.

    A name that differs in case and hyphens alone comes first, then one typing error, then similar spelling.
    """
    known = {_folded(each): each for each in sorted(names, reverse=True)}
    meant = _folded(name)
    if meant in known:
        return known[meant]
    slips = [each for each in known if one_slip(meant, each)]
    likely = [each for each in slips if sorted(each) == sorted(meant)] or slips  # two letters swapped
    matches = get_close_matches(meant, likely, n=1, cutoff=0.0) or get_close_matches(
        meant, list(known), n=1, cutoff=0.6
    )
    return known[matches[0]] if matches else None


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


def one_slip(a: str, b: str) -> bool:
    """Whether `a` is `b` with one letter too many, one missing, one wrong, or two neighbors swapped."""
    if len(a) == len(b):
        wrong = [i for i in range(len(a)) if a[i] != b[i]]
        swapped = (
            len(wrong) == 2 and wrong[1] == wrong[0] + 1 and a[wrong[0]] == b[wrong[1]] and a[wrong[1]] == b[wrong[0]]
        )
        return len(a) > 1 and (len(wrong) == 1 or swapped)
    long, short = (a, b) if len(a) > len(b) else (b, a)
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
