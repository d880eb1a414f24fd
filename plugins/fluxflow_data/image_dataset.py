"""What both datasets share: the options of images, and batches of images with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from fluxflow_registry import Field, Place, Problem, SampleError

from .sizes import Size, bucket_sizes, largest_crop, nearest_buckets, reduced_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def _a_multiple_divides_the_square(options: ImageOptions, _: Any, multiple: int | None) -> None:
    if multiple is not None and options.image_size % multiple:
        raise ValueError(f"`image_size` is {options.image_size}, not a multiple of `bucket_multiple` ({multiple})")


def _copies_are_smaller(options: ImageOptions, _: Any, sides: list[int] | None) -> None:
    multiple = options.bucket_multiple
    for side in sides or ():
        if not 0 < side < options.image_size:
            raise ValueError(f"`reduced_min_sizes` contains {side}: use less than `image_size` ({options.image_size})")
        if multiple is not None and side % multiple:
            raise ValueError(f"`reduced_min_sizes` contains {side}, not a multiple of `bucket_multiple` ({multiple})")
    if sides is not None and len(set(sides)) < len(sides):
        raise ValueError("`reduced_min_sizes` contains a size twice")


@frozen(kw_only=True)
class ImageOptions:
    """How images are cropped, mirrored and captioned."""

    image_size: int = field(default=64, validator=validators.ge(1))
    """Side of the square in pixels; its area is the largest that a bucket has."""
    bucket_multiple: int | None = field(
        default=None, validator=validators.optional(validators.and_(validators.ge(1), _a_multiple_divides_the_square))
    )
    """Each image goes to the bucket nearest in aspect, whose sides are multiples of this; null: all are squares."""
    bucket_aspect: float = field(default=2.0, validator=validators.and_(validators.ge(1.0), validators.le(16.0)))
    """Largest ratio of a bucket's longer side to its shorter one."""
    reduced_min_sizes: list[int] | None = field(default=None, validator=_copies_are_smaller)
    """Further resolutions, each less than `image_size`: a batch is first trained on in these smaller copies."""
    caption_prefix: str | None = None
    """Text before every caption, as in `{prefix}. {caption}`; null: none."""
    flip: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Probability that an image is mirrored left to right, sampled again in each epoch."""

    def fields(self) -> Mapping[str, Field]:
        """The fields of a batch, per sample, with every size that an image can have."""
        sizes = [Size(self.image_size, self.image_size), *self.bucket_sizes()]
        sizes += [copy for size in dict.fromkeys(sizes) for copy in self.copy_sizes(size)]
        shape, *others = dict.fromkeys((3, size.height, size.width) for size in sizes)
        return {
            "image": Field(shape, "float32", "center of the image, in [-1, 1]", also=tuple(others)),
            "caption": Field(shape=None, dtype="text", meaning="what the image shows"),
        }

    def bucket_sizes(self) -> tuple[Size, ...]:
        """The sizes of all buckets."""
        return bucket_sizes(self.image_size, self.bucket_multiple, self.bucket_aspect)

    def copy_sizes(self, size: Size) -> list[Size]:
        """The sizes of the smaller copies of images of `size`, the smallest first."""
        sides = sorted(self.reduced_min_sizes or ())
        return [reduced_size(size, side, self.image_size, self.bucket_multiple) for side in sides]


class ImageSource:
    """Images with captions, each read when a batch needs it. A dataset derives from it and defines where they are read.

    `stored_sizes` is int64 [samples, 2], width and height of each stored image, 0 where unknown; None where all are
    cropped to squares. Its public members are those of `fluxflow_registry.Source`.
    """

    def __init__(
        self,
        options: ImageOptions,
        stored_sizes: NDArray[np.int64] | None,
        left_out: Sequence[Problem] = (),
        about: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.options = options
        self.about = about
        self.notes = notes
        self.left_out = left_out
        self.views = 1 + len(options.reduced_min_sizes or ())
        self._bucket_sizes = options.bucket_sizes()
        self._stored_sizes = stored_sizes
        #: The number of each sample's bucket; None where all images are cropped to squares.
        self.buckets: NDArray[np.int64] | None = None
        if options.bucket_multiple is not None and stored_sizes is not None:
            self.buckets = nearest_buckets(stored_sizes, self._bucket_sizes)

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The name of sample `index` in messages."""
        raise NotImplementedError

    def _image_name(self, index: int) -> tuple[str, str, Place]:
        """How a problem describes the image of a sample, the sample's bare name, and where it is stored."""
        raise NotImplementedError

    def _read_image(self, index: int) -> bytes:
        raise NotImplementedError

    def _read_caption(self, index: int) -> str | Problem:
        raise NotImplementedError

    def _has_captions(self) -> bool:
        """Whether any sample has a caption that is not empty."""
        raise NotImplementedError

    def field_notes(self, name: str) -> Sequence[str]:
        """What a step that reads a field should know: that all captions are empty."""
        return ["the captions of all samples are empty"] if name == "caption" and not self._has_captions() else []

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Tensor | list[str]]:
        """Read the samples at `indices`; `seed` and the index decide which images are mirrored.

        Returns image [B, 3, H, W] and caption, a list of B strings. Raises SampleError with all damaged samples of the
        batch, and ValueError for samples of several buckets.
        """
        from .images import load_images

        size = self._common_size(indices)
        damaged: dict[int, Problem] = {}
        images = load_images(indices, self._read_image, self._image_name, size, damaged)
        captions = [self._read_caption(index) for index in indices]
        for index, caption in zip(indices, captions, strict=True):
            if isinstance(caption, Problem):
                damaged.setdefault(index, caption)
        if damaged:
            raise SampleError(damaged)
        return collate(self.options, indices, images, [str(caption) for caption in captions], seed)

    def _common_size(self, indices: Sequence[int]) -> Size:
        if self.buckets is None:
            return Size(self.options.image_size, self.options.image_size)
        numbers = {int(self.buckets[index]) for index in indices}
        if len(numbers) > 1:
            names = ", ".join(map(self.bucket_name, sorted(numbers)))
            raise ValueError(f"a batch cannot mix samples of several buckets ({names})")
        return self._bucket_sizes[numbers.pop()]

    def bucket_name(self, number: int) -> str:
        """The name of a bucket: its size."""
        return str(self._bucket_sizes[number])

    def view(self, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The batch at one of its resolutions, the smallest first; the last one is the batch itself."""
        if number == self.views - 1:
            return dict(fields)
        image = fields["image"]
        size = self.options.copy_sizes(Size(image.shape[-1], image.shape[-2]))[number]
        return {**fields, "image": smaller_copy(image, size)}

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each stored image, 0 where unknown: int64 [samples, 2]."""
        import numpy as np

        return self._stored_sizes if self._stored_sizes is not None else np.zeros((len(self), 2), dtype=np.int64)


def smaller_copy(image: Tensor, size: Size) -> Tensor:
    """Images [B, 3, H, W] scaled down with antialiasing (bicubic), the center cropped to the aspect of `size`."""
    from torch.nn.functional import interpolate

    height, width = image.shape[-2:]
    crop_width, crop_height = map(round, largest_crop(width, height, size))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    center = image[..., top : top + crop_height, left : left + crop_width]
    return interpolate(center, (size.height, size.width), mode="bicubic", antialias=True).clamp(-1.0, 1.0)


def collate(
    options: ImageOptions, indices: Sequence[int], images: list[NDArray[np.uint8]], captions: Sequence[str], seed: int
) -> dict[str, Tensor | list[str]]:
    """The fields of a batch from images uint8 [H, W, 3]; `seed` and the index decide which are mirrored."""
    import numpy as np
    import torch
    from einops import rearrange

    pairs = zip(images, indices, strict=True)
    flipped = [image[:, ::-1] if flip_chance(seed, index) < options.flip else image for image, index in pairs]
    pixels = rearrange(torch.from_numpy(np.stack(flipped)), "b h w c -> b c h w")
    return {
        "image": pixels.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0,
        "caption": [". ".join(filter(None, (options.caption_prefix, caption))) for caption in captions],
    }


def flip_chance(seed: int, index: int) -> float:
    """The number in [0, 1) that belongs to sample `index` under `seed`: 53 bits of BLAKE2b."""
    digest = blake2b(f"flip:{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
