"""What the datasets of this plugin have in common: their options, and the batches that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from fluxflow_registry import Field, Problem, SampleError

from .buckets import Size, covered, nearest, reduced, sizes

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

    @property
    def bucket_multiple(self) -> int | None:
        """What the sides of all buckets are multiples of; None: all pictures are squares."""

    @property
    def bucket_aspect(self) -> float:
        """How many times as long as wide a bucket is at most."""

    @property
    def reduced_min_sizes(self) -> list[int] | None:
        """Resolutions of the smaller copies of each batch."""


def whole_multiple(options: Options, _: Any, value: int | None) -> None:
    """Raise ValueError where the square is no bucket: for attrs, as the validator of `bucket_multiple`."""
    if value is not None and options.image_size % value:
        raise ValueError(f"`image_size` is {options.image_size}, which is no multiple of `bucket_multiple`, {value}")


def smaller(options: Options, _: Any, value: list[int] | None) -> None:
    """Raise ValueError for copies that are none: for attrs, as the validator of `reduced_min_sizes`."""
    for side in value or ():
        if not 0 < side < options.image_size:
            raise ValueError(
                f"`reduced_min_sizes` holds {side}; copies are smaller than `image_size`, {options.image_size}"
            )
        if options.bucket_multiple is not None and side % options.bucket_multiple:
            multiple = options.bucket_multiple
            raise ValueError(f"`reduced_min_sizes` holds {side}, which is no multiple of `bucket_multiple`, {multiple}")
    if value is not None and len(set(value)) < len(value):
        raise ValueError("`reduced_min_sizes` holds a size twice")


def fields_of(options: Options) -> Mapping[str, Field]:
    """Say what a batch holds, per sample."""
    usual = Size(options.image_size, options.image_size)
    each = [usual, *(size for size in buckets_of(options) if size != usual)]
    every = dict.fromkeys([*each, *(copy for size in each for copy in copies_of(options, size))])
    shapes = [(3, size.height, size.width) for size in every]
    return {
        "image": Field(shapes[0], "float32", "centre of the picture, in [-1, 1]", also=tuple(shapes[1:])),
        "caption": Field(shape=None, dtype="text", meaning="what the picture shows"),
    }


def buckets_of(options: Options) -> tuple[Size, ...]:
    """The sizes of a dataset's buckets."""
    return sizes(options.image_size, options.bucket_multiple, options.bucket_aspect)


def copies_of(options: Options, size: Size) -> list[Size]:
    """The sizes of the smaller copies of a batch of pictures of `size`, the smallest first."""
    sides = sorted(options.reduced_min_sizes or ())
    return [reduced(size, side, options.image_size, options.bucket_multiple) for side in sides]


class PictureSource:
    """Samples of pictures with captions, each read when it is asked for: all but where they are read from.

    `measured` is int64 [samples, 2], width and height of each picture as it is stored, 0 where unknown; it
    may be None where all are cut to squares.
    """

    def __init__(
        self,
        options: Options,
        measured: NDArray[np.int64] | None,
        left_out: Sequence[Problem] = (),
        about: Sequence[str] = (),
    ) -> None:
        self.options = options
        self.about = about
        self.left_out = left_out
        self.views = 1 + len(options.reduced_min_sizes or ())
        self._sizes = buckets_of(options)
        self._measured = measured
        #: For each sample the number of its bucket; None where all pictures are cut to squares.
        self.buckets: NDArray[np.int64] | None = None
        if options.bucket_multiple is not None and measured is not None:
            self.buckets = nearest(measured, self._sizes)

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Say which one is sample `index`."""
        raise NotImplementedError

    def _picture(self, index: int) -> bytes:
        """The bytes of one picture."""
        raise NotImplementedError

    def _caption(self, index: int, damaged: dict[int, Problem]) -> str:
        """The caption of a sample, or an empty text after telling why there is none."""
        raise NotImplementedError

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Tensor | list[str]]:
        """Read the samples at `indices`; `seed` and the index decide which ones are mirrored.

        Returns image [B, 3, H, W] and caption, a list of B strings. Raises SampleError with all
        samples of the batch that cannot be decoded, and ValueError for samples of several buckets.
        """
        from ..images.loading import read_all

        size = self._size_of(indices)
        damaged: dict[int, Problem] = {}
        pictures = read_all(indices, self._picture, self.name, size, damaged)
        captions = [self._caption(index, damaged) for index in indices]
        if damaged:
            raise SampleError(damaged)
        return batch_of(self.options, indices, pictures, captions, seed)

    def _size_of(self, indices: Sequence[int]) -> Size:
        if self.buckets is None:
            return Size(self.options.image_size, self.options.image_size)
        found = {int(self.buckets[index]) for index in indices}
        if len(found) > 1:
            told = ", ".join(map(self.bucket_name, sorted(found)))
            raise ValueError(f"samples of several buckets ({told}) are no batch")
        return self._sizes[found.pop()]

    def bucket_name(self, number: int) -> str:
        """Say what a bucket is: its size."""
        return str(self._sizes[number])

    def view(self, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The batch at one of its resolutions, the smallest first; the last one is the batch itself."""
        if number == self.views - 1:
            return dict(fields)
        image = fields["image"]
        size = copies_of(self.options, Size(image.shape[-1], image.shape[-2]))[number]
        return {**fields, "image": smaller_copy(image, size)}

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each picture as it is stored, 0 where it is not known: int64 [samples, 2]."""
        import numpy as np

        return self._measured if self._measured is not None else np.zeros((len(self), 2), dtype=np.int64)


def smaller_copy(image: Tensor, size: Size) -> Tensor:
    """Pictures [B, 3, H, W] made smaller with antialiasing (bicubic), the centre cut to the aspect of `size`."""
    from torch.nn.functional import interpolate

    height, width = image.shape[-2:]
    across, down = map(round, covered(width, height, size))
    left, top = (width - across) // 2, (height - down) // 2
    centre = image[..., top : top + down, left : left + across]
    return interpolate(centre, (size.height, size.width), mode="bicubic", antialias=True).clamp(-1.0, 1.0)


def batch_of(
    options: Options, indices: Sequence[int], pictures: list[NDArray[np.uint8]], captions: Sequence[str], seed: int
) -> dict[str, Tensor | list[str]]:
    """The fields from pictures uint8 [H, W, 3]; `seed` and the index decide which ones are mirrored."""
    import numpy as np
    import torch

    pairs = zip(pictures, indices, strict=True)
    turned = [picture[:, ::-1] if chance(seed, index) < options.flip else picture for picture, index in pairs]
    pixels = torch.from_numpy(np.stack(turned)).permute(0, 3, 1, 2)
    prefix = options.caption_prefix
    return {
        "image": pixels.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0,
        "caption": [". ".join(filter(None, (prefix, caption))) for caption in captions],
    }


def chance(seed: int, index: int) -> float:
    """Draw the number in [0, 1) that belongs to sample `index` under `seed`: 53 bits of BLAKE2b."""
    digest = blake2b(f"flip:{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
