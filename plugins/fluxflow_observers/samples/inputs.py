"""What is drawn of: samples of a dataset, pictures in files, prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from fluxflow_registry import DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_registry.lifecycle import RunView

#: A size as a recipe says it: a side, or width and height.
Size = int | tuple[int, int]


@frozen(eq=False)
class Subjects:
    """A batch that pictures are made of, and for each of its samples what it is, in words."""

    told: Sequence[str]
    batch: dict[str, Any]


def sides(size: Size) -> tuple[int, int]:
    """Width and height."""
    return (size, size) if isinstance(size, int) else size


def of_dataset(run: RunView, dataset: str, count: int) -> Iterator[Subjects]:
    """The first samples of a dataset, in one batch."""
    batch = run.peek(dataset, count)
    length = min((len(field) for field in batch.values()), default=0)
    yield Subjects([f"sample {index} of {dataset}" for index in range(length)], batch)


def of_files(files: Sequence[str], sizes: Sequence[Size]) -> Iterator[Subjects]:
    """All files at one size, then at the next."""
    import torch

    for width, height in map(sides, sizes if files else ()):
        told = [f"file {file} at {width}x{height}" for file in files]
        yield Subjects(told, {"image": torch.stack([read(file, width, height) for file in files])})


def of_prompts(prompts: Sequence[str], sizes: Sequence[Size]) -> Iterator[Subjects]:
    """Each prompt at each size, one by one; at the size of the step's pictures where none is listed."""
    for prompt in prompts:
        for width, height in map(sides, sizes):
            yield Subjects(
                [f"prompt {prompt!r} at {width}x{height}"], {"caption": [prompt], "image_size": (height, width)}
            )
        if not sizes:
            yield Subjects([f"prompt {prompt!r}"], {"caption": [prompt]})


def read(file: str, width: int, height: int) -> Tensor:
    """A picture file as [3, height, width] in [-1, 1], scaled to cover that size and cut to it in its middle.

    Raises DataError where it cannot be read.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with Image.open(Path(file).expanduser()) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(Problem(f"observer `samples` cannot read the picture: {error}", file)) from None
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(fitted, dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()
