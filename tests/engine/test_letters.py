"""Letters of every script are drawn in images if any font has them, and ASCII as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from fluxflow_registry import Notice
from fluxflow_registry.engine import letters
from fluxflow_registry.engine.images import GAP, LETTER, contact_sheet
from fluxflow_registry.engine.letters import Letters

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")

#: A character that no font here has.
MISSING = "\U000e0fff"

#: One that a font beside matplotlib's own has, which stands for a font of the system.
STIX = "\u1d81"

SYSTEM = letters._system_fonts

pytestmark = pytest.mark.filterwarnings("ignore:no installed font")


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A system with one font of its own, a file that is none, and one that does not exist."""
    (tmp_path / "a.ttf").write_bytes(b"not a font")
    fonts = [tmp_path / "a.ttf", tmp_path / "none.otf", FONTS / "STIXGeneral.ttf"]
    monkeypatch.setattr(letters, "_system_fonts", lambda: fonts)
    letters._font_with.cache_clear()
    letters._note_boxes.cache_clear()
    yield
    letters._font_with.cache_clear()


def drawn(text: str) -> np.ndarray:
    image = Image.new("L", (300, 20), "white")
    Letters(LETTER).draw(ImageDraw.Draw(image), 2, 2, text, fill=0)  # type: ignore[arg-type]
    return np.asarray(image)


def test_a_sheet_with_ascii_captions_is_drawn_in_pillows_own_font() -> None:
    caption = "a red circle, 7 px"
    expected = Image.new("RGB", (2 * GAP + 160, 2 * GAP + 160 + GAP + 13), "white")
    expected.paste((0, 0, 0), (GAP, GAP, GAP + 160, GAP + 160))
    font = ImageFont.load_default(LETTER)
    ImageDraw.Draw(expected).text((GAP, 2 * GAP + 160), caption, fill=(40, 40, 40), font=font)

    sheet = contact_sheet([[torch.full((3, 160, 160), -1.0)]], [caption])

    assert np.array_equal(np.asarray(sheet), np.asarray(expected))
    assert Letters(LETTER).getlength(caption) == font.getlength(caption)


@pytest.mark.parametrize("letter", ["é", "ß", "Ł", "ğ", "“", "€", "ж", "λ", "ش", "ש", "Ə", "→", "❤", STIX])
def test_a_letter_is_no_box(letter: str) -> None:
    assert not np.array_equal(drawn(letter), drawn(MISSING))
    assert drawn(letter).min() < 128


def test_letters_of_several_fonts_are_side_by_side_on_one_line() -> None:
    parts = ("ش", STIX, MISSING, "ش")

    length = Letters(LETTER).getlength("".join(parts))

    assert length == pytest.approx(sum(map(Letters(LETTER).getlength, parts)), abs=2)


def test_a_letter_in_two_characters_is_drawn_as_the_one() -> None:
    assert np.array_equal(drawn("cafe\u0301"), drawn("café"))


def test_a_sheet_is_drawn_on_a_system_without_any_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "_system_fonts", list)

    sheet = contact_sheet([[torch.zeros(3, 96, 96)]] * 2, ["白い背景の赤い円" * 20, "ж"])

    assert sheet.width == 3 * GAP + 2 * 96


def test_characters_that_no_font_has_are_reported_once() -> None:
    with pytest.warns(Notice, match="drawn as boxes: install a font") as caught:
        contact_sheet([[torch.zeros(3, 96, 96)]] * 2, [MISSING, f"a{MISSING}\U000e0ffe"])

    assert len(caught) == 1


def test_the_fonts_of_this_system_can_be_listed() -> None:
    assert all(path.suffix.lower() in (".ttf", ".ttc", ".otf") for path in SYSTEM())
