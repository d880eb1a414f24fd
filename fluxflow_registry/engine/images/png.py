"""Image tensors as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fluxflow_registry.errors import Problem, RunError


def to_bytes(image: Tensor) -> Tensor:
    """Image [3, H, W] in [-1, 1] as bytes [H, W, 3]."""
    return ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)


def save_png(image: Tensor, file: Path, told: Mapping[str, str]) -> None:
    """Write a PNG with what made it in its text chunks; raises RunError where it cannot be written."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in told.items():
        info.add_itxt(key, value)
    try:
        Image.fromarray(to_bytes(image).numpy()).save(file, pnginfo=info)
    except OSError as error:
        raise RunError(Problem(f"the picture cannot be written: {error.strerror}", str(file))) from None
