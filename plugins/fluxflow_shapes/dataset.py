"""Dataset `shapes`: captioned images rendered by rule, deterministic and without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from fluxflow_registry import Field, Problem

from .vocabulary import Split, caption_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@frozen
class Shapes:
    """Colored shapes on plain backgrounds, each with a caption that describes the image.

    image: float32 [B, 3, S, S] in [-1, 1]; caption: `a small red circle on a white background, top left`. There are
    6 shapes x 8 colors x 6 backgrounds x 2 sizes x 5 places; place, size and shade vary a little within a caption. The
    split `train` never shows 6 of the 48 pairs of shape and color, `held_out` shows only these. Image i depends on
    (seed, i) alone.
    """

    image_size: int = field(default=32, validator=validators.ge(16))
    """Side of the image in pixels."""
    length: int = field(default=16_384, validator=validators.ge(1))
    """Number of images; rendering itself has no limit."""
    seed: int = 0
    """Another seed renders other images of the same kind."""
    split: Split = "train"
    """Which pairs of shape and color are shown."""
    centre_unsaid: float = field(default=0.5, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Share of centered shapes whose captions name no place, which means the center."""

    def fields(self) -> dict[str, Field]:
        """The fields of a batch, per sample."""
        shape = (3, self.image_size, self.image_size)
        return {
            "image": Field(shape=shape, dtype="float32", meaning="image of one shape, in [-1, 1]"),
            "caption": Field(shape=None, dtype="text", meaning="what the image shows"),
        }

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """The problem where this dataset shows the held-out pairs, and another one that shows them is trained on."""
        if self.split != "held_out" or not isinstance(trained, Shapes) or trained.split == "train":
            return None
        cause = f"`{other}` has `split: {trained.split}`"
        message = f"dataset `{label}` is held out, but training reads samples of it: {cause}"
        hint = f"set `split: train` in `{other}`, or `split: all` in `{label}` if nothing has to be held out"
        return Problem(message, None, (("hint", hint),), code="held-out-overlap", subject=label)

    def __call__(self) -> ShapesSource:
        """Open the dataset."""
        return ShapesSource(self)


class ShapesSource:
    """The images of one `Shapes`, rendered when a batch needs them."""

    #: Rendering is vectorized: a few long calls cost less than many short ones.
    samples_at_once = 256

    def __init__(self, options: Shapes) -> None:
        self.options = options

    def __len__(self) -> int:
        return self.options.length

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """Render the images `indices`; `seed` (the epoch's) changes nothing, as there is no augmentation.

        Returns image [B, 3, S, S] and caption, a list of B strings.
        """
        import torch

        from .rendering import render_samples, uniform

        options = self.options
        image, attributes = render_samples(options.seed, indices, options.split, options.image_size)
        index = torch.tensor(indices, dtype=torch.int64)
        name_center = (uniform(options.seed, index, 6) >= options.centre_unsaid).tolist()
        return {"image": image, "caption": list(map(caption_of, attributes, name_center))}
