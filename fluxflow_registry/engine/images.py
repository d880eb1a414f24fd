"""Images as pixels, as PNG files, and as contact sheets: a grid of cells, each with a caption under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fluxflow_registry.engine.letters import Letters
from fluxflow_registry.state.disk import replace, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    Pixels = NDArray[np.uint8]

#: Pixels between two cells, around all of them, and between the images of one cell.
GAP = 4

#: Images smaller than this are enlarged, each pixel to a square of pixels.
LEAST = 96

#: Size of the letters and distance of the lines, in pixels; lines of a caption at most.
LETTER, LINE, LINES = 11, 13, 5


class Font(Protocol):
    """What a text is measured with."""

    def getlength(self, text: str, /) -> float:
        """Return the width of a line in pixels."""


def to_pixels(image: Tensor) -> Pixels:
    """The pixels [..., H, W, 3] of images [..., 3 or 1, H, W] in [-1, 1]; NaN is black."""
    import torch

    # Computed where the images are: copied as bytes, all at once.
    shades = image.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1)
    pixels = ((shades + 1) * 127.5).round().to(torch.uint8).cpu()
    return pixels.expand(*image.shape[:-3], 3, -1, -1).movedim(-3, -1).contiguous().numpy()


def save_png(image: Tensor, file: Path, notes: Mapping[str, str]) -> None:
    """Write a PNG with notes in its text chunks; raises RunError if it cannot be written."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in notes.items():
        info.add_itxt(key, value)
    with writing(f"write image `{file}`", str(file)):
        stream = BytesIO()
        Image.fromarray(to_pixels(image)).save(stream, "PNG", pnginfo=info)
        replace(file, stream.getvalue())


def contact_sheet(
    cells: Sequence[Sequence[Tensor | Pixels]], captions: Sequence[str], columns: int = 8, side: int | None = None
) -> Image.Image:
    """The cells, `columns` in a row; each shows its images, one above the other, and its caption.

    Images are [3 or 1, H, W] in [-1, 1], or what `to_pixels` returns for them. Those below 96 pixels are enlarged by an
    integer factor; with a `side`, all are fitted into a square of that many pixels instead. A caption that exceeds its
    lines is shortened.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    def shown(content: Tensor | Pixels) -> Image.Image:
        image = Image.fromarray(content if isinstance(content, np.ndarray) else to_pixels(content))
        return enlarged(image) if side is None else fitted(image, side)

    stacks = [[shown(content) for content in cell] for cell in cells]
    width = side or max((image.width for stack in stacks for image in stack), default=LEAST)
    letters = Letters(LETTER)
    texts = [lines(caption, width - GAP, letters) for caption in captions]
    columns = max(1, min(columns, len(cells)))
    rows = [range(start, min(start + columns, len(cells))) for start in range(0, len(cells), columns)]
    rooms = [max(side or 0, *(_height(stacks[index]) for index in row)) for row in rows]
    below = [max(len(texts[index]) for index in row) for row in rows]
    heights = [room + (GAP + LINE * count if count else 0) + GAP for room, count in zip(rooms, below, strict=True)]
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), GAP
    for row, room, height in zip(rows, rooms, heights, strict=True):
        for column, index in enumerate(row):
            left, y = GAP + column * (width + GAP), top + room - _height(stacks[index])
            for image in stacks[index]:
                sheet.paste(image, (left + (width - image.width) // 2, y))
                y += image.height + GAP
            for number, line in enumerate(texts[index]):
                letters.draw(pen, left, top + room + GAP + number * LINE, line, fill=(40, 40, 40))
        top += height
    return sheet


def enlarged(image: Image.Image) -> Image.Image:
    """The image, its pixels repeated until its short side has at least 96 of them."""
    return _repeated(image, -(-LEAST // min(image.size)))


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image as large as fits into a square; small ones keep their pixels, each repeated."""
    from PIL.Image import Resampling

    factor = side / max(image.size)
    if factor >= 1:
        return _repeated(image, int(factor))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Resampling.LANCZOS)


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
            fits = 1
            while fits < len(rest) and font.getlength(rest[: fits + 1]) <= width:
                fits += 1
            found.append(rest[:fits])
            rest = rest[fits:]
    if len(found) <= LINES:
        return found
    last = found[LINES - 1]
    while last and font.getlength(f"{last} ...") > width:
        last = last[:-1]
    return [*found[: LINES - 1], f"{last} ..."]


def _height(stack: Sequence[Image.Image]) -> int:
    return sum(image.height + GAP for image in stack) - GAP


def _repeated(image: Image.Image, factor: int) -> Image.Image:
    from PIL.Image import Resampling

    size = (image.width * factor, image.height * factor)
    return image.resize(size, Resampling.NEAREST) if factor > 1 else image
