"""Dataset `shapes`: captioned pictures drawn by rule, deterministic and without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from fluxflow_registry import Field, Problem
from fluxflow_shapes.vocabulary import Split, caption_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@frozen
class Shapes:
    """Coloured shapes on plain backgrounds, each with a caption that says what is drawn.

    image: float32 [B, 3, S, S] in [-1, 1]; caption: `a small red circle on a white background,
    top left`. 6 shapes x 8 colours x 6 backgrounds x 2 sizes x 5 places; place, size and shade vary
    a little within a caption. The split `train` never shows 6 of the 48 pairs of shape and colour,
    `held_out` shows only these. Picture i depends on (seed, i) alone.
    """

    image_size: int = field(default=32, validator=validators.ge(16))
    """Side of the picture in pixels."""
    length: int = field(default=16_384, validator=validators.ge(1))
    """How many pictures there are; the drawing itself has no end."""
    seed: int = 0
    """Which pictures: another seed shows other ones of the same kind."""
    split: Split = "train"
    """Which pairs of shape and colour are shown."""
    centre_unsaid: float = field(default=0.5, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Share of centred pictures whose captions do not say so: without a place, the centre is meant."""

    def fields(self) -> dict[str, Field]:
        """Say what a batch holds, per sample."""
        return {
            "image": Field(
                shape=(3, self.image_size, self.image_size),
                dtype="float32",
                meaning="picture of one shape, in [-1, 1]",
            ),
            "caption": Field(shape=None, dtype="text", meaning="what the picture shows"),
        }

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """What is wrong where this shows the held-out pairs, and another dataset that shows them is trained on."""
        if self.split != "held_out" or not isinstance(trained, Shapes) or trained.split == "train":
            return None
        told = f"`{other}` is trained on, and has `split: {trained.split}`"
        hint = (("or else", f"`split: train` in `{other}`, or `split: all` in `{label}`, which promises nothing"),)
        return Problem(f"dataset `{label}` shows pairs that are held out, and training sees them: {told}", None, hint)

    def __call__(self) -> ShapesSource:
        """Open the dataset."""
        return ShapesSource(self)


class ShapesSource:
    """The pictures of one `Shapes`, drawn when they are asked for."""

    #: Drawing is vectorised: a few long calls cost less than many short ones.
    samples_at_once = 256

    def __init__(self, options: Shapes) -> None:
        self.options = options

    def __len__(self) -> int:
        return self.options.length

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """Draw pictures number `indices`; `seed` (the epoch's) changes nothing, as all is fixed.

        Returns image [B, 3, S, S] and caption, a list of B strings.
        """
        import torch

        from fluxflow_shapes.rendering import draw, uniform

        options = self.options
        image, attributes = draw(options.seed, indices, options.split, options.image_size)
        number = torch.tensor(indices, dtype=torch.int64)
        say = (uniform(options.seed, number, 6) >= options.centre_unsaid).tolist()
        caption = [caption_of(one, say_centre) for one, say_centre in zip(attributes, say, strict=True)]
        return {"image": image, "caption": caption}
