"""Color profiles: the colors of an image, as the profile in its file describes them, converted to sRGB."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The modes of images to which a profile of each color space applies, and the mode from which it converts.
SPACES = {
    "RGB": ("RGB", {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}),
    "GRAY": ("L", {"1", "L", "LA"}),
    "CMYK": ("CMYK", {"CMYK"}),
}

#: A profile that changes no value by more than this, of 255, is sRGB, whatever its name: the image is used as it is.
ROUNDING = 3

#: Values of each channel for which a profile is compared with sRGB.
LEVELS = np.linspace(0, 255, 16).round().astype(np.uint8)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """The image in sRGB, mode RGB, without its transparency; None where its profile changes nothing.

    Relative colorimetric, with black point compensation, as browsers show it. An image without a profile is sRGB. A
    profile that cannot be read, or belongs to another kind of image, is ignored, as viewers do.
    """
    found = _transform(profile) if profile else None
    if found is None:
        return None
    space, transform = found
    mode, modes = SPACES[space]
    if image.mode not in modes:
        return None
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The color space of a profile, and the conversion to sRGB; None where there is nothing to convert."""
    try:
        source = ImageCms.getOpenProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            SPACES[space][0],
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # whatever is wrong with a profile, or where Pillow is built without littleCMS
        return None
    return None if _changes_nothing(space, transform) else (space, transform)


def _changes_nothing(space: str, transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a conversion from RGB or gray returns what it receives."""
    colors: NDArray[np.uint8]
    if space == "RGB":
        colors = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(1, -1, 3)
    elif space == "GRAY":
        colors = np.arange(256, dtype=np.uint8).reshape(1, -1)
    else:
        return False
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(colors), transform)).astype(int)
    return bool(np.abs(converted - colors.reshape(1, len(colors[0]), -1)).max() <= ROUNDING)
