"""The options that both datasets share, and the batch fields that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen, validators

from fluxflow_registry import Field

from ..holdout import HoldoutOptions
from ..images.size import Size
from .buckets import bucket_sizes, reduced_size


def own_options_first(cls: type, options: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Order a dataset's own options, such as its path, before the shared ones: attrs' `field_transformer`."""
    return sorted(options, key=lambda option: option.name not in cls.__annotations__)


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
class ImageOptions(HoldoutOptions):
    """How images are cropped, mirrored and captioned."""

    image_size: int = field(default=64, validator=validators.ge(1))
    """Side of the square in pixels; its area is the largest that a bucket has."""
    bucket_multiple: int | None = field(
        default=None, validator=validators.optional(validators.and_(validators.ge(1), _a_multiple_divides_the_square))
    )
    """Each image goes to the bucket nearest in aspect, whose sides are multiples of this; None: all are squares."""
    bucket_aspect: float = field(default=2.0, validator=validators.and_(validators.ge(1.0), validators.le(16.0)))
    """Largest ratio of a bucket's longer side to its shorter one."""
    reduced_min_sizes: list[int] | None = field(default=None, validator=_copies_are_smaller)
    """Further resolutions, each less than `image_size`: a batch is first trained on in these smaller copies."""
    caption_prefix: str | None = None
    """Put before every caption, as `{prefix}. {caption}`."""
    flip: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Probability that an image is mirrored left to right, drawn again in each epoch."""

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
