"""The words of the shapes task: what an image can show, how a caption describes it, and which pairs are held out."""

from __future__ import annotations

import re
from itertools import product
from typing import Literal

from attrs import frozen

Split = Literal["train", "held_out", "all"]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
"""The shapes, each upright."""

COLORS = {
    "red": (0.88, 0.12, 0.12),
    "orange": (0.95, 0.55, 0.08),
    "yellow": (0.94, 0.88, 0.12),
    "green": (0.12, 0.70, 0.20),
    "cyan": (0.14, 0.82, 0.88),
    "blue": (0.13, 0.30, 0.92),
    "purple": (0.52, 0.15, 0.72),
    "pink": (0.95, 0.42, 0.68),
}
"""The colors of a shape: name to red, green and blue in [0, 1]."""

BACKGROUNDS = {
    "white": (0.94, 0.94, 0.94),
    "black": (0.06, 0.06, 0.06),
    "grey": (0.50, 0.50, 0.50),
    "navy": (0.08, 0.10, 0.36),
    "brown": (0.40, 0.24, 0.12),
    "beige": (0.85, 0.76, 0.58),
}
"""The colors of a background; no name is in `COLORS` too, so no shape can vanish."""

SIZES = {"small": 0.15, "large": 0.22}
"""Name to radius, as a fraction of the image's side."""

CENTER = "in the centre"
"""The place of a shape whose caption names none."""

PLACES = {
    "top left": (0.28, 0.28),
    "top right": (0.72, 0.28),
    CENTER: (0.50, 0.50),
    "bottom left": (0.28, 0.72),
    "bottom right": (0.72, 0.72),
}
"""Phrase to the center's (x, y), as fractions of the image's side, y downwards."""

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
"""Pairs of shape and color that the training split never shows, one for each shape."""


@frozen
class Attributes:
    """What a caption says about its image."""

    shape: str
    color: str
    background: str
    size: str
    place: str = CENTER

    @property
    def held_out(self) -> bool:
        """Whether the training split never shows this pair of shape and color."""
        return (self.shape, self.color) in HELD_OUT


def caption_of(attributes: Attributes, name_center: bool = True) -> str:
    """The caption of an image: `a small red circle on a white background, top left`.

    A shape in the center has no place in its caption where `name_center` is False.
    """
    named = name_center or attributes.place != CENTER
    place = f", {attributes.place}" if named else ""
    return f"a {attributes.size} {attributes.color} {attributes.shape} on a {attributes.background} background{place}"


_CAPTION = re.compile(
    r"an? (?P<size>\w+) (?P<color>\w+) (?P<shape>\w+) on an? (?P<background>\w+) background"
    r"(?:,? (?P<place>[\w ]+))?\.?"
)


def parse(caption: str) -> Attributes:
    """The attributes in a caption, whatever its case and spaces; without a place, the shape is in the center.

    Inverse of `caption_of`. Raises ValueError for a caption outside the grammar, with the unknown word and the valid
    ones.
    """
    match = _CAPTION.fullmatch(" ".join(caption.lower().split()))
    if match is None:
        form = "a SIZE COLOR SHAPE on a BACKGROUND background[, PLACE]"
        raise ValueError(f"the caption {caption!r} does not have the form `{form}`")
    valid = {"shape": SHAPES, "color": COLORS, "background": BACKGROUNDS, "size": SIZES, "place": PLACES}
    words = {**match.groupdict(), "place": match["place"] or CENTER}
    for kind, names in valid.items():
        if words[kind] not in names:
            message = f"the caption {caption!r} has the unknown {kind} {words[kind]!r}: use one of {', '.join(names)}"
            raise ValueError(message)
    return Attributes(**words)


def combinations(split: Split) -> list[Attributes]:
    """Everything that the split can show, in one fixed order, each with a place."""
    everything = (Attributes(*words) for words in product(SHAPES, COLORS, BACKGROUNDS, SIZES, PLACES))
    return [one for one in everything if split == "all" or one.held_out == (split == "held_out")]
