"""Text in images: each word in the first font that has all of its characters."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from fluxflow_registry.errors import Notice

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

    PillowFont = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PARTS = re.compile(r"\s+|\S+")


@frozen
class Letters:
    """Text of one size: lines of ASCII in Pillow's own font, others in matplotlib's and those of this system.

    A character that no font has is drawn as a box, with one Notice for all of them.
    """

    size: int

    def getlength(self, text: str) -> float:
        """The width of a line in pixels."""
        return sum(font.getlength(part) for part, font in self._runs(text))

    def draw(self, pen: ImageDraw.ImageDraw, left: float, top: float, text: str, fill: tuple[int, int, int]) -> None:
        """Draw a line whose upper left corner is there; all fonts on one base line."""
        own = _pillow_font(self.size)
        for part, font in self._runs(text):
            if font is own:
                pen.text((left, top), part, fill=fill, font=font)
            else:
                pen.text((left, top + own.getmetrics()[0]), part, fill=fill, font=font, anchor="ls")
            left += font.getlength(part)

    def _runs(self, text: str) -> Iterator[tuple[str, PillowFont]]:
        """The parts of a line, each with its font."""
        if text.isascii():
            yield text, _pillow_font(self.size)
            return
        parts = _PARTS.findall(unicodedata.normalize("NFC", text))
        fonts = [pair for part in parts for pair in self._fonts(part)]
        for _, same in groupby(fonts, key=lambda pair: id(pair[1])):
            pairs = list(same)
            yield "".join(part for part, _ in pairs), pairs[0][1]

    def _fonts(self, word: str) -> list[tuple[str, PillowFont]]:
        """A word with its font or, where no font has all of it, each of its characters with the font that has it."""
        path = _font_with(frozenset(word))
        if path is None and len(word) > 1:
            return [pair for character in word for pair in self._fonts(character)]
        if path is None:
            _note_boxes()
        return [(word, _font(path or _matplotlib_font(), self.size))]


@cache
def _note_boxes() -> None:
    """Say once that characters cannot be drawn."""
    text = "no installed font has some of the characters in the images, so they are drawn as boxes"
    warnings.warn(Notice(f"{text}: install a font that has them, such as Noto Sans CJK"), stacklevel=2)


@cache
def _pillow_font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size, where Pillow has FreeType
    return font


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(path, size)


@lru_cache(maxsize=4096)
def _font_with(characters: frozenset[str]) -> Path | None:
    """The first font that has all of these characters, of matplotlib's and this system's; None if none has."""
    codes = {ord(character) for character in characters}
    if codes <= _characters(_matplotlib_font()):
        return _matplotlib_font()
    return next((path for path in _system_fonts() if codes <= _characters(path)), None)


def _matplotlib_font() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _system_fonts() -> Sequence[Path]:
    """The fonts of this system, those without serifs first. Last Resort has a box for each character."""
    from matplotlib.font_manager import findSystemFonts

    fonts = [path for path in map(Path, findSystemFonts()) if not path.name.startswith("LastResort")]
    return sorted(fonts, key=lambda path: ("sans" not in path.name.lower(), path.name, path))


@cache
def _characters(path: Path) -> frozenset[int]:
    """The characters of a font; none of one that cannot be read, or has images in place of outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
