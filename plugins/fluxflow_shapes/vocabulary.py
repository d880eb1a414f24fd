"""The words of the shapes task: what is drawn, how it is said, and which pairs are kept back."""

from __future__ import annotations

import re
from itertools import product
from typing import Literal

from attrs import frozen

Split = Literal["train", "held_out", "all"]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
"""The shapes, each upright."""

COLOURS = {
    "red": (0.88, 0.12, 0.12),
    "orange": (0.95, 0.55, 0.08),
    "yellow": (0.94, 0.88, 0.12),
    "green": (0.12, 0.70, 0.20),
    "cyan": (0.14, 0.82, 0.88),
    "blue": (0.13, 0.30, 0.92),
    "purple": (0.52, 0.15, 0.72),
    "pink": (0.95, 0.42, 0.68),
}
"""What a shape is filled with: name to red, green and blue in [0, 1]."""

BACKGROUNDS = {
    "white": (0.94, 0.94, 0.94),
    "black": (0.06, 0.06, 0.06),
    "grey": (0.50, 0.50, 0.50),
    "navy": (0.08, 0.10, 0.36),
    "brown": (0.40, 0.24, 0.12),
    "beige": (0.85, 0.76, 0.58),
}
"""What a shape stands on; no name is shared with `COLOURS`, so no shape can vanish."""

SIZES = {"small": 0.15, "large": 0.22}
"""Name to radius, as a fraction of the picture's side."""

CENTRE = "in the centre"
"""The place that is meant where none is said."""

PLACES = {
    "top left": (0.28, 0.28),
    "top right": (0.72, 0.28),
    CENTRE: (0.50, 0.50),
    "bottom left": (0.28, 0.72),
    "bottom right": (0.72, 0.72),
}
"""Phrase to the centre's (x, y), as fractions of the picture's side, y downwards."""

HELD_OUT = frozenset(
    {
        ("circle", "orange"),
        ("square", "cyan"),
        ("triangle", "pink"),
        ("star", "yellow"),
        ("ring", "blue"),
        ("cross", "red"),
    }
)
"""Pairs of shape and colour that the training split never shows, one for each shape."""


@frozen
class Attributes:
    """What one caption says of its picture; a caption that names no place means the centre."""

    shape: str
    colour: str
    background: str
    size: str
    place: str = CENTRE

    @property
    def held_out(self) -> bool:
        """Whether the training split never shows this pair of shape and colour."""
        return (self.shape, self.colour) in HELD_OUT


def caption_of(attributes: Attributes, say_centre: bool = True) -> str:
    """Say the attributes in words: `a small red circle on a white background, top left`.

    The centre goes without saying where `say_centre` is False.
    """
    said = say_centre or attributes.place != CENTRE
    place = f", {attributes.place}" if said else ""
    return f"a {attributes.size} {attributes.colour} {attributes.shape} on a {attributes.background} background{place}"


_CAPTION = re.compile(
    r"an? (?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+) on an? (?P<background>\w+) background"
    r"(?:,? (?P<place>[\w ]+))?\.?"
)


def parse(caption: str) -> Attributes:
    """Read a caption back; upper case and further blanks do not matter; without a place, the centre is meant.

    Inverse of `caption_of`. Raises ValueError where the caption is not of the task's grammar,
    naming the word and the words there are.
    """
    found = _CAPTION.fullmatch(" ".join(caption.lower().split()))
    if found is None:
        raise ValueError(
            f"the caption {caption!r} is not of the form `a SIZE COLOUR SHAPE on a BACKGROUND background[, PLACE]`"
        )
    known = {
        "shape": SHAPES,
        "colour": COLOURS,
        "background": BACKGROUNDS,
        "size": SIZES,
        "place": PLACES,
    }
    said = {**found.groupdict(), "place": found["place"] or CENTRE}
    for kind, words in known.items():
        if said[kind] not in words:
            raise ValueError(f"the caption {caption!r} names the {kind} {said[kind]!r}; there are: {', '.join(words)}")
    return Attributes(**said)


def combinations(split: Split) -> list[Attributes]:
    """List everything the split can show, in one fixed order, each with a place."""
    everything = (
        Attributes(shape, colour, background, size, place)
        for shape, colour, background, size, place in product(SHAPES, COLOURS, BACKGROUNDS, SIZES, PLACES)
    )
    if split == "all":
        return list(everything)
    return [one for one in everything if one.held_out == (split == "held_out")]
