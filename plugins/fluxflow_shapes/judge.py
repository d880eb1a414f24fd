"""Metric `shapes_judge`: does a picture show its caption, by matching against drawn templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from attrs import field, frozen, validators

from fluxflow_shapes.vocabulary import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, parse

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32
"""Pictures are judged at this many pixels a side; larger ones are averaged down to it."""


class Reading(NamedTuple):
    """What pictures show: each an index into the vocabulary's table of that name, int64 [B].

    match: share of the picture's variation that the best template explains, in [0, 1], float32
    [B]; 1 is a perfect shape of one colour on a plain background.
    """

    shape: Tensor
    colour: Tensor
    background: Tensor
    size: Tensor
    place: Tensor
    match: Tensor


class _Templates(NamedTuple):
    """Coverage of every template, and what it is a template of."""

    mask: Tensor  # [T, SIDE * SIDE], each of unit length
    length: Tensor  # [T], its length before
    shape: Tensor  # [T]
    size: Tensor  # [T]
    place: Tensor  # [T]


@lru_cache(maxsize=1)
def _templates() -> _Templates:
    """Draw every shape, size and place, shifted by up to 1.5 pixels and scaled by up to 5%."""
    import torch

    from fluxflow_shapes.rendering import coverage

    shifts = [step / 2 / SIDE for step in range(-3, 4)]
    scales = (0.95, 1.0, 1.05)
    masks, labels = [], []
    for shape_number, shape in enumerate(SHAPES):
        variants = list(product(enumerate(SIZES.values()), enumerate(PLACES.values())))
        variants_jittered = list(product(variants, scales, shifts, shifts))
        centre = torch.tensor([(x + dx, y + dy) for ((_, (_, (x, y))), _, dx, dy) in variants_jittered])
        radius = torch.tensor([r * scale for (((_, r), _), scale, _, _) in variants_jittered])
        masks.append(coverage(shape, centre, radius, SIDE).flatten(1))
        labels += [(shape_number, s, p) for (((s, _), (p, _)), _, _, _) in variants_jittered]
    mask = torch.cat(masks)
    length = mask.norm(dim=1)
    label = torch.tensor(labels)
    return _Templates(mask / length[:, None], length, *label.unbind(1))


def _nearest(colour: Tensor, palette: dict[str, tuple[float, float, float]]) -> Tensor:
    """Index of the palette's nearest colour: colour [B, 3] in [-1, 1] to int64 [B]."""
    import torch

    entries = torch.tensor(list(palette.values()), device=colour.device) * 2.0 - 1.0
    return torch.cdist(colour, entries).argmin(dim=1)


def read_picture(images: Tensor) -> Reading:
    """Read what each picture shows: the template m and colours a, b that minimise |x - b - m a|.

    images [B, 3, H, W] in [-1, 1], H = W at least 32. The background b is the median of the pixels
    at the border; of y = x - b a template of unit length explains the share
    sum_c <m, y_c>^2 / |y|^2, and the best one gives shape, size and place, and by its
    coefficients the shape's colour. Nothing is learnt.
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    images = adaptive_avg_pool2d(images.float(), SIDE)
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[..., 0], images[..., -1]], dim=2)
    ground = border.median(dim=2).values
    templates = _templates()
    mask = templates.mask.to(images.device)
    rest = images.flatten(2) - ground[:, :, None]
    response = rest @ mask.T  # [B, 3, T]
    explained, best = response.square().sum(dim=1).max(dim=1)
    coefficient = response.gather(2, best[:, None, None].expand(-1, 3, 1))[:, :, 0]
    # The coefficient is of a template of unit length: per unit of coverage it is a - b.
    colour = ground + coefficient / templates.length.to(images.device)[best][:, None]
    return Reading(
        shape=templates.shape.to(images.device)[best],
        colour=_nearest(colour, COLOURS),
        background=_nearest(ground, BACKGROUNDS),
        size=templates.size.to(images.device)[best],
        place=templates.place.to(images.device)[best],
        match=explained / rest.square().sum(dim=(1, 2)).clamp(min=1e-6),
    )


@frozen
class ShapesJudge:
    """Shares of generated pictures that show what their captions say, attribute by attribute.

    `colour`, `background`, `place`, `shape`, `size` and `everything` (all five at once), each a
    0-d mean over the batch; `match` is the mean of `Reading.match`, how clean the shapes are. A
    picture that matches its best template worse than `min_match` has no shape and no size. A
    caption that names no place means the centre; one outside the task's grammar is never right.
    """

    #: Another metric of an evaluation may have figures of which less is better.
    better: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("colour", "background", "place", "shape", "size", "everything", "match"), "higher"
    )

    min_match: float = field(default=0.7, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Share of the variation that the best template must explain for the shape to count."""

    def __call__(self, generated_image: Tensor, caption: list[str]) -> dict[str, Tensor]:
        """Compare pictures [B, 3, H, W] in [-1, 1] with their B captions."""
        import torch

        seen = read_picture(generated_image)
        said = torch.tensor([_said(one) for one in caption], device=generated_image.device)
        clean = seen.match >= self.min_match
        right = {
            "colour": said[:, 0] == seen.colour,
            "background": said[:, 1] == seen.background,
            "place": said[:, 2] == seen.place,
            "shape": (said[:, 3] == seen.shape) & clean,
            "size": (said[:, 4] == seen.size) & clean,
        }
        right["everything"] = torch.stack(list(right.values())).all(dim=0)
        shares = {name: each.float().mean() for name, each in right.items()}
        return {**shares, "match": seen.match.mean()}


_UNREADABLE = (-1, -1, -1, -1, -1)
"""Stands for a caption outside the grammar: equal to no reading."""


def _said(caption: str) -> tuple[int, ...]:
    """Turn a caption into indices of colour, background, place, shape and size."""
    try:
        said = parse(caption)
    except ValueError:
        return _UNREADABLE
    return (
        list(COLOURS).index(said.colour),
        list(BACKGROUNDS).index(said.background),
        list(PLACES).index(said.place),
        SHAPES.index(said.shape),
        list(SIZES).index(said.size),
    )
