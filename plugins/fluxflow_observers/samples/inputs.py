"""What images are computed from: samples of a dataset, image files, prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from fluxflow_registry import DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_registry import RunView

#: A size as a recipe specifies it: a side, or width and height.
Size = int | tuple[int, int]


@frozen(eq=False)
class Inputs:
    """A batch that images are computed from, and a description of each of its samples.

    The descriptions are in the EXIF data of the files, and their hash is in the files' names.
    """

    descriptions: Sequence[str]
    batch: dict[str, Any]
    #: Samples of a dataset that are computed together, on which their images may depend; 0 for all else.
    count: int = 0
    #: Whether images are generated from captions; otherwise images are reconstructed.
    generates: bool = False


def sides(size: Size) -> tuple[int, int]:
    """Width and height."""
    return (size, size) if isinstance(size, int) else size


def dataset_inputs(run: RunView, dataset: str, count: int) -> Iterator[Inputs]:
    """The first samples of a dataset, in one batch."""
    batch = run.peek(dataset, count)
    length = min((len(field) for field in batch.values()), default=0)
    yield Inputs([f"sample {index} of {dataset}" for index in range(length)], batch, count)


def file_inputs(files: Sequence[str], sizes: Sequence[Size]) -> Iterator[Inputs]:
    """All files at one size, then at the next."""
    import torch

    for width, height in map(sides, sizes if files else ()):
        descriptions = [f"file {file} at {width}x{height}" for file in files]
        yield Inputs(descriptions, {"image": torch.stack([read_image(file, width, height) for file in files])})


def prompt_inputs(prompts: Sequence[str], sizes: Sequence[Size]) -> Iterator[Inputs]:
    """Each prompt at each size, one by one; at the size of the step's images if no size is listed."""
    for prompt in prompts:
        for width, height in map(sides, sizes):
            batch = {"caption": [prompt], "image_size": (height, width)}
            yield Inputs([f"prompt {prompt!r} at {width}x{height}"], batch, generates=True)
        if not sizes:
            yield Inputs([f"prompt {prompt!r}"], {"caption": [prompt]}, generates=True)


def read_image(file: str, width: int, height: int) -> Tensor:
    """An image file as [3, height, width] in [-1, 1], scaled to cover that size and center-cropped to it.

    Raises DataError if it cannot be read.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with Image.open(Path(file).expanduser()) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"observer `samples` cannot read image `{file}`"
        problem = Problem(message, file, [("cause", str(error))], code="unreadable-file", subject=file)
        raise DataError(problem) from None
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(fitted, dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()
