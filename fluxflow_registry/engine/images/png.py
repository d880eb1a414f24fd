"""Image tensors as pixels and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fluxflow_registry.errors import Problem, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of an image [3 or 1, H, W] in [-1, 1]; NaN is black."""
    import torch

    shades = image.detach().float().cpu().nan_to_num(nan=-1.0).clamp(-1, 1)
    pixels = ((shades + 1) * 127.5).round().to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def save_png(image: Tensor, file: Path, notes: Mapping[str, str]) -> None:
    """Write a PNG with notes in its text chunks; raises RunError if it cannot be written."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in notes.items():
        info.add_itxt(key, value)
    try:
        Image.fromarray(to_pixels(image)).save(file, pnginfo=info)
    except OSError as error:
        raise RunError(
            Problem(f"image `{file}` cannot be written: {error.strerror}", str(file), code="unwritable-file")
        ) from None
