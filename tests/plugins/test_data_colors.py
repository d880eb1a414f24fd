"""Colors are those that a viewer shows: converted from the profile of an image to sRGB, and left alone in sRGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from fluxflow_data.images import crop_image
from fluxflow_data.sizes import Size

from .profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    gamma_curve,
    gray_profile,
    rgb_profile,
    srgb_curve,
)

P3 = rgb_profile(DISPLAY_P3, srgb_curve())
OWN = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

#: Profiles with which an image is shown as it is without one.
SAME = {
    "sRGB by littleCMS": OWN,
    "sRGB by primaries and curve": rgb_profile(SRGB, srgb_curve()),
    "gray with sRGB's curve": gray_profile(srgb_curve()),
    "not a profile": b"not a profile" * 20,
    "a truncated profile": P3[:200],
    "of another kind of image": cmyk_profile(),
}

MODES = {
    "RGB": Image.radial_gradient("L").resize((16, 16)).convert("RGB"),
    "L": Image.radial_gradient("L").resize((16, 16)),
    "P": Image.radial_gradient("L").resize((16, 16)).convert("RGB").quantize(8),
    "RGBA": Image.merge("RGBA", [Image.radial_gradient("L").resize((16, 16))] * 4),
}


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def shown(content: bytes, side: int = 16) -> Any:
    return crop_image(content, Size(side, side))


def color(image: Image.Image, profile: bytes | None, form: str = "PNG", **options: Any) -> tuple[int, ...]:
    """The color of an image of one color, as it is trained on."""
    return tuple(shown(encoded(image, form, icc_profile=profile, **options))[8, 8].tolist())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", SAME.values(), ids=SAME)
def test_an_image_in_srgb_is_the_same_bit_by_bit_with_its_profile_and_without(profile: bytes, mode: str) -> None:
    assert np.array_equal(shown(encoded(MODES[mode], icc_profile=profile)), shown(encoded(MODES[mode])))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (P3, (215, 93, 31)),
        (rgb_profile(ADOBE_RGB, gamma_curve(2.2)), (227, 100, 42)),
        (rgb_profile(SRGB, gamma_curve(1.0)), (229, 168, 122)),
    ],
    ids=["Display P3", "Adobe RGB", "linear"],
)
def test_colors_are_converted_from_the_profile_to_srgb(
    profile: bytes, expected: tuple[int, int, int], form: str
) -> None:
    options = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0} if form == "JPEG" else {}

    found = color(Image.new("RGB", (16, 16), (200, 100, 50)), profile, form, **options)

    assert np.abs(np.subtract(found, expected)).max() <= 2


def with_alpha(alpha: int) -> Image.Image:
    return Image.new("RGBA", (16, 16), (200, 100, 50, alpha))


def palette(transparency: bytes | None = None) -> Image.Image:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([200, 100, 50, 0, 0, 0])
    return image


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (lambda: with_alpha(255), {}, (215, 93, 31)),
        (lambda: with_alpha(0), {}, (255, 255, 255)),
        (lambda: with_alpha(128), {}, (235, 174, 143)),
        (palette, {}, (215, 93, 31)),
        (palette, {"transparency": bytes([128, 255])}, (235, 174, 143)),
        (palette, {"transparency": bytes([0, 255])}, (255, 255, 255)),
    ],
    ids=["opaque", "transparent", "half", "palette", "half palette", "transparent palette"],
)
def test_transparent_colors_are_converted_before_they_are_blended_with_white(
    image: Callable[[], Image.Image], options: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    assert np.abs(np.subtract(color(image(), P3, **options), expected)).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_is_converted_with_the_curve_of_its_profile(mode: str) -> None:
    value: Any = {"L": 128, "LA": (128, 255), "I;16": 128 * 257}[mode]

    found = color(Image.new(mode, (16, 16), value), gray_profile(gamma_curve(1.0)))

    assert found == (188, 188, 188)


def test_inks_are_converted_by_the_table_of_their_profile() -> None:
    found = color(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), cmyk_profile(), "JPEG", quality=100)

    assert np.abs(np.subtract(found, 189)).max() <= 2


@pytest.mark.parametrize("profile", [None, OWN])
def test_lab_is_read_as_what_it_describes(profile: bytes | None) -> None:
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.new("RGB", (16, 16), (200, 100, 50)), lab)
    assert image is not None
    image.info.clear()

    found = color(image, profile, "TIFF")

    assert np.abs(np.subtract(found, (200, 100, 50))).max() <= 4
