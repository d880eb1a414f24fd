"""A contact sheet: pictures side by side, each with a text under it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fluxflow_registry.engine.images.png import to_bytes

#: Pixels that a picture takes at most in each direction, and how far it is from the next.
CELL, GAP = 160, 6

#: Size of the letters and distance of the lines, in pixels; lines of a text at most.
LETTER, LINE, LINES = 11, 14, 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(pictures: Sequence[Tensor], texts: Sequence[str], columns: int = 8) -> Image.Image:
    """Pictures [3, H, W] in [-1, 1] of any sizes, each fitted into a cell; what a text has too much is cut."""
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    height = CELL + LINE * LINES + GAP
    sheet = Image.new("RGB", (GAP + columns * (CELL + GAP), GAP + rows * (height + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTER)
    for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left = GAP + number % columns * (CELL + GAP)
        top = GAP + number // columns * (height + GAP)
        shown = fitted(Image.fromarray(to_bytes(picture).numpy()))
        sheet.paste(shown, (left + (CELL - shown.width) // 2, top + CELL - shown.height))
        for line, words in enumerate(lines(text, CELL, font)):
            pen.text((left, top + CELL + GAP // 2 + line * LINE), words, fill=(40, 40, 40), font=font)
    return sheet


def fitted(picture: Image.Image) -> Image.Image:
    """The picture as large as a cell takes it; small ones keep their pixels, each as a square."""
    factor = CELL / max(picture.size)
    if factor >= 1:
        whole = int(factor)
        return picture.resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def lines(text: str, width: int, font: Font) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words and, where one is too long, within."""
    found: list[str] = []
    for word in text.split():
        if len(found) > LINES:
            break
        rest = word
        if found and font.getlength(f"{found[-1]} {rest}") <= width:
            found[-1] += f" {rest}"
            continue
        while rest and len(found) <= LINES:
            fits = _fitting(rest, width, font)
            found.append(rest[:fits])
            rest = rest[fits:]
    if len(found) <= LINES:
        return found
    last = found[LINES - 1]
    while last and font.getlength(f"{last} ...") > width:
        last = last[:-1]
    return [*found[: LINES - 1], f"{last} ..."]


def _fitting(word: str, width: int, font: Font) -> int:
    """How many of a word's first letters fit into `width` pixels; one at least."""

    def too_wide(count: int) -> bool:
        return font.getlength(word[:count]) > width

    return max(1, bisect_left(range(1, len(word) + 1), True, key=too_wide))
