"""Grids of pictures, with their captions under them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

#: Pictures smaller than this are enlarged, each pixel to a square of pixels.
SEEN = 96

#: Pixels between two pictures, and around all of them.
GAP = 4

#: Size of a caption's letters, and of its lines, in pixels.
LETTER, LINE = 11, 13

#: Lines of a caption at most; a longer one is cut.
LINES = 5

GROUND, INK = (255, 255, 255), (40, 40, 40)

#: Pictures, uint8 [height, width, 3].
Pixels = NDArray[np.uint8]


@frozen(eq=False)
class Cell:
    """What is shown of one sample: pictures, one above the other, and a caption."""

    pictures: Sequence[Pixels]
    caption: str = ""


def grid(cells: Sequence[Cell], columns: int) -> Image.Image:
    """All cells, `columns` in a row; pictures below 96 pixels are enlarged by a whole factor."""
    columns = max(1, min(columns, len(cells)))
    stacks = [[enlarged(pixels) for pixels in cell.pictures] for cell in cells]
    width = max((picture.width for stack in stacks for picture in stack), default=SEEN)
    font = ImageFont.load_default(LETTER)
    captions = [wrapped(cell.caption, width - GAP, font) for cell in cells]
    rows = [range(start, min(start + columns, len(cells))) for start in range(0, len(cells), columns)]
    heights = [max(_height(stacks[i], captions[i]) for i in row) for row in rows]
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + sum(heights) + GAP * len(rows)), GROUND)
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left, y = GAP + column * (width + GAP), top
            for picture in stacks[index]:
                sheet.paste(picture, (left, y))
                y += picture.height + GAP
            for line in captions[index]:
                pen.text((left, y), line, fill=INK, font=font)
                y += LINE
        top += height + GAP
    return sheet


def enlarged(pixels: Pixels) -> Image.Image:
    """The picture, its pixels repeated so that its short side has at least 96 of them."""
    picture = Image.fromarray(pixels)
    factor = -(-SEEN // min(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST) if factor > 1 else picture


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The text in lines of at most `width` pixels; what exceeds the last line is cut and marked `...`."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    cut = [_shortened(line, width, font) for line in lines[:LINES]]
    if len(lines) > LINES:
        cut[-1] = _shortened(f"{lines[LINES - 1]} ...", width, font)
    return cut


def png(sheet: Image.Image, notes: dict[str, str]) -> bytes:
    """The sheet as PNG, with notes in its text."""
    info = PngInfo()
    for key, text in notes.items():
        info.add_text(key, text)
    stream = BytesIO()
    sheet.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _height(stack: Sequence[Image.Image], caption: Sequence[str]) -> int:
    return sum(picture.height + GAP for picture in stack) - GAP + (GAP + LINE * len(caption) if caption else 0)


def _shortened(line: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(line) <= width:
        return line
    kept = line.removesuffix(" ...")
    while kept and font.getlength(f"{kept}...") > width:
        kept = kept[:-1]
    return f"{kept.rstrip()}..."
