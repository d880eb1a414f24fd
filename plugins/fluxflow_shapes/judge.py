"""Metric `shapes_judge`: whether an image shows its caption, by matching it against rendered templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from attrs import field, frozen, validators

from .vocabulary import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, parse

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32
"""Images are judged at this many pixels a side; larger ones are averaged down to it."""


class Reading(NamedTuple):
    """What images show: each an index into the vocabulary's table of that name, int64 [B].

    match: share of the image's variation that the best template explains, in [0, 1], float32 [B]; 1 is a perfect shape
    of one color on a plain background.
    """

    shape: Tensor
    color: Tensor
    background: Tensor
    size: Tensor
    place: Tensor
    match: Tensor


class _Templates(NamedTuple):
    """Coverage of every template, and what it is a template of."""

    mask: Tensor  # [T, SIDE * SIDE], each of unit length
    length: Tensor  # [T], the length before normalization
    shape: Tensor  # [T]
    size: Tensor  # [T]
    place: Tensor  # [T]


@lru_cache(maxsize=1)
def _templates() -> _Templates:
    """Render every shape, size and place, shifted by up to 1.5 pixels and scaled by up to 5%."""
    import torch
    from einops import rearrange

    from .rendering import coverage

    shifts = [step / 2 / SIDE for step in range(-3, 4)]
    sizes, places = list(enumerate(SIZES.values())), list(enumerate(PLACES.values()))
    variants = list(product(sizes, places, (0.95, 1.0, 1.05), shifts, shifts))
    center = torch.tensor([(x + dx, y + dy) for _, (_, (x, y)), _, dx, dy in variants])
    radius = torch.tensor([radius * scale for (_, radius), _, scale, _, _ in variants])
    mask = torch.cat([rearrange(coverage(shape, center, radius, SIDE), "t h w -> t (h w)") for shape in SHAPES])
    label = [(shape, size, place) for shape in range(len(SHAPES)) for (size, _), (place, _), _, _, _ in variants]
    length = mask.norm(dim=1)
    return _Templates(mask / length[:, None], length, *torch.tensor(label).unbind(1))


def _nearest(color: Tensor, palette: dict[str, tuple[float, float, float]]) -> Tensor:
    """Index of the palette's nearest color: color [B, 3] in [-1, 1] to int64 [B]."""
    import torch

    entries = torch.tensor(list(palette.values()), device=color.device) * 2.0 - 1.0
    return torch.cdist(color, entries).argmin(dim=1)


def read_image(images: Tensor) -> Reading:
    """Read what each image shows: the template m and colors a, b that minimize |x - b - m a|.

    images [B, 3, H, W] in [-1, 1], H = W at least 32. The background b is the median of the pixels at the border; of
    y = x - b a template of unit length explains the share sum_c <m, y_c>^2 / |y|^2, and the best one determines shape,
    size and place, and by its coefficients the shape's color. Nothing is learned.
    """
    import torch
    from einops import rearrange
    from torch.nn.functional import adaptive_avg_pool2d

    images = adaptive_avg_pool2d(images.float(), SIDE)
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[..., 0], images[..., -1]], dim=2)
    ground = border.median(dim=2).values
    templates = _Templates(*(table.to(images.device) for table in _templates()))
    rest = rearrange(images, "b c h w -> b c (h w)") - ground[:, :, None]
    response = rest @ templates.mask.T  # [B, 3, T]
    explained, best = response.square().sum(dim=1).max(dim=1)
    coefficient = response.gather(2, best[:, None, None].expand(-1, 3, 1))[:, :, 0]
    # The coefficient is of a template of unit length: per unit of coverage it is a - b.
    color = ground + coefficient / templates.length[best][:, None]
    return Reading(
        shape=templates.shape[best],
        color=_nearest(color, COLORS),
        background=_nearest(ground, BACKGROUNDS),
        size=templates.size[best],
        place=templates.place[best],
        match=explained / rest.square().sum(dim=(1, 2)).clamp(min=1e-6),
    )


@frozen
class ShapesJudge:
    """Shares of generated images that show what their captions describe, attribute by attribute.

    `colour`, `background`, `place`, `shape`, `size` and `everything` (all five at once), each a 0-d mean over the
    batch; `match` is the mean of `Reading.match`, how clean the shapes are. An image that matches its best template
    worse than `min_match` has no shape and no size. A caption without a place means the center; a caption outside the
    task's grammar is always wrong.
    """

    #: Per metric, as another metric of an evaluation may be better where it is lower.
    better: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("colour", "background", "place", "shape", "size", "everything", "match"), "higher"
    )

    min_match: float = field(default=0.7, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Share of the variation that the best template must explain for the shape to count."""

    def __call__(self, generated_image: Tensor, caption: list[str]) -> dict[str, Tensor]:
        """Compare images [B, 3, H, W] in [-1, 1] with their B captions."""
        import torch

        seen = read_image(generated_image)
        expected = torch.tensor(list(map(_indices, caption)), device=generated_image.device)
        clean = seen.match >= self.min_match
        right = {
            "colour": expected[:, 0] == seen.color,
            "background": expected[:, 1] == seen.background,
            "place": expected[:, 2] == seen.place,
            "shape": (expected[:, 3] == seen.shape) & clean,
            "size": (expected[:, 4] == seen.size) & clean,
        }
        right["everything"] = torch.stack(list(right.values())).all(dim=0)
        shares = {name: each.float().mean() for name, each in right.items()}
        return {**shares, "match": seen.match.mean()}


def _indices(caption: str) -> tuple[int, ...]:
    """The indices of a caption's color, background, place, shape and size; -1, equal to no reading, if it has none."""
    try:
        words = parse(caption)
    except ValueError:
        return (-1,) * 5
    return (
        list(COLORS).index(words.color),
        list(BACKGROUNDS).index(words.background),
        list(PLACES).index(words.place),
        SHAPES.index(words.shape),
        list(SIZES).index(words.size),
    )
