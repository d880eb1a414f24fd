"""A contact sheet shows every image whole, and captions that stay within their cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from fluxflow_registry.engine.images import GAP, LETTER, LINES, contact_sheet, enlarged, lines, to_pixels

FONT = ImageFont.load_default(LETTER)


@given(st.text(max_size=300), st.integers(20, 300))
def test_no_line_of_a_caption_is_wider_than_its_cell(text: str, width: int) -> None:
    found = lines(text, width, FONT)

    assert len(found) <= LINES
    assert all(FONT.getlength(line) <= width or len(line) == 1 for line in found)


@pytest.mark.parametrize(("text", "last"), [("word " * 100, "..."), ("short", "short"), ("", None)])
def test_only_a_caption_that_is_too_long_ends_in_dots(text: str, last: str | None) -> None:
    found = lines(text, 96, FONT)

    assert found[-1].endswith(last) if last is not None else found == []
    assert len(found) == (LINES if last == "..." else len(text.split()))


@given(st.integers(1, 200), st.integers(1, 200))
def test_small_images_are_enlarged_by_whole_pixels(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    shown = np.asarray(enlarged(Image.fromarray(pixels)))

    factor = shown.shape[0] // height
    assert min(shown.shape[:2]) >= 96
    assert factor == 1 or (factor - 1) * min(width, height) < 96
    assert np.array_equal(shown, pixels.repeat(factor, 0).repeat(factor, 1))


def test_images_of_any_size_are_fitted_into_a_square() -> None:
    side = 160
    images = [torch.full((3, height, width), -1.0) for height, width in ((8, 8), (1, 900), (900, 1), (side, side))]

    sheet = contact_sheet([[image] for image in images], ["a"] * 4, columns=2, side=side)

    assert sheet.width == GAP + 2 * (side + GAP)
    assert sheet.getpixel((GAP + side // 2, GAP + side - 1)) == (0, 0, 0)
    assert sheet.getpixel((GAP + side + GAP // 2, GAP + side // 2)) == (255, 255, 255)


@given(st.integers(1, 9), st.integers(1, 12))
def test_a_sheet_has_every_image(samples: int, columns: int) -> None:
    images = [torch.full((1, 96, 96), index / 10) for index in range(samples)]

    sheet = np.asarray(contact_sheet([[image] for image in images], [""] * samples, columns))
    same = contact_sheet([[pixels] for pixels in to_pixels(torch.stack(images))], [""] * samples, columns)

    across = min(samples, columns)
    for index in range(samples):
        y, x = (GAP + (96 + GAP) * place for place in divmod(index, across))
        assert (sheet[y : y + 96, x : x + 96] == round((index / 10 + 1) * 127.5)).all()
    assert np.array_equal(np.asarray(same), sheet)
