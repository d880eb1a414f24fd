"""From pictures and captions to the batch that every dataset of this plugin gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from fluxflow_registry import Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Options(Protocol):
    """What the datasets of this plugin have in common."""

    @property
    def image_size(self) -> int:
        """Side of the square in pixels."""

    @property
    def caption_prefix(self) -> str | None:
        """Put in front of every caption."""

    @property
    def flip(self) -> float:
        """Probability that a picture is mirrored."""


def fields_of(options: Options) -> Mapping[str, Field]:
    """Say what a batch holds, per sample."""
    size = options.image_size
    return {
        "image": Field(shape=(3, size, size), dtype="float32", meaning="centre of the picture, in [-1, 1]"),
        "caption": Field(shape=None, dtype="text", meaning="what the picture shows"),
    }


def batch_of(
    options: Options, indices: Sequence[int], pictures: list[NDArray[np.uint8]], captions: Sequence[str], seed: int
) -> dict[str, Tensor | list[str]]:
    """The fields from pictures uint8 [S, S, 3]; `seed` and the index decide which ones are mirrored."""
    import numpy as np
    import torch

    pairs = zip(pictures, indices, strict=True)
    turned = [picture[:, ::-1] if chance(seed, index) < options.flip else picture for picture, index in pairs]
    pixels = torch.from_numpy(np.stack(turned)).permute(0, 3, 1, 2)
    prefix = f"{options.caption_prefix}. " if options.caption_prefix else ""
    return {
        "image": pixels.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0,
        "caption": [prefix + caption for caption in captions],
    }


def chance(seed: int, index: int) -> float:
    """Draw the number in [0, 1) that belongs to sample `index` under `seed`: 53 bits of BLAKE2b."""
    digest = blake2b(f"flip:{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
