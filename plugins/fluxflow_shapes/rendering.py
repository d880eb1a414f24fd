"""Images of shapes as pure functions of (seed, index), rendered from signed distance functions."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from .vocabulary import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Attributes, Split, combinations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLACE_JITTER = 0.025
"""Largest shift of the center along each axis, as a fraction of the image's side."""

SIZE_JITTER = 0.04
"""Largest relative change of the radius."""

SHADE_JITTER = 0.05
"""Largest change of brightness of the shape and of the background, of the range [0, 1]."""


class Scene(NamedTuple):
    """Everything that determines a batch of images.

    shape: index into SHAPES [B]; center: (x, y) in fractions of the side [B, 2]; radius: in fractions of the side [B];
    color and background: RGB in [0, 1], [B, 3].
    """

    shape: Tensor
    center: Tensor
    radius: Tensor
    color: Tensor
    background: Tensor


# --- random numbers -----------------------------------------------------------------------------


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift 64 bits to the right, filling with zeros (torch's own shift repeats the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """Read the low 64 bits as the signed integer that int64 holds for them."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def hashed(seed: int, index: Tensor, stream: int) -> Tensor:
    """Mix (seed, index, stream) into 64 random bits: the splitmix64 finalizer, applied twice.

    index int64 [B]; returns int64 [B]. Counter-based: no state, so that image i never depends on the images before it
    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    golden = 0x9E3779B97F4A7C15
    x = index * _signed(golden) + _signed(seed * 0xD1342543DE82EF95 + (stream + 1) * 0x2545F4914F6CDD1D)
    for _ in range(2):
        x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
        x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
        x = x ^ _shift_right(x, 31)
    return x


def uniform(seed: int, index: Tensor, stream: int) -> Tensor:
    """A number in [0, 1) for each index, from the top 24 bits of its hash; float32 [B]."""
    return _shift_right(hashed(seed, index, stream), 40).to(torch.float32) * 2.0**-24


# --- signed distances ---------------------------------------------------------------------------
#
# Each takes coordinates (x, y) in units of the shape's radius, y downwards, and returns the distance to the edge,
# negative inside. Only +, -, *, sqrt, min and max are used: these are rounded alike in every lane of a processor, so
# that an image has the same bits in any batch.


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - 0.96


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return ((x * x + y * y).sqrt() - 0.76).abs() - 0.24


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.84


def _cross(x: Tensor, y: Tensor) -> Tensor:
    length, width = 1.0, 0.32
    x, y = x.abs(), y.abs()
    along = torch.maximum(x - length, y - width)
    across = torch.maximum(y - length, x - width)
    return torch.minimum(along, across)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    circumradius = 1.24
    y = y - circumradius / 4  # the bounding box, not the centroid, is centered
    sides = x.abs() * (math.sqrt(3) / 2) - y * 0.5
    return torch.maximum(sides, y) - circumradius / 2


def _star(x: Tensor, y: Tensor) -> Tensor:
    outer, inner, half = 1.12, 0.50, math.radians(36)
    normal_x, normal_y = math.cos(half), math.sin(half)
    x, y = x.abs(), y - 0.08  # a star's bounding box is above its center
    for _ in range(2):  # fold the half plane at a notch: twice leaves one tip's half wedge
        beyond = (x * normal_x + y * normal_y).clamp(min=0.0) * 2.0
        x, y = (x - beyond * normal_x).abs(), y - beyond * normal_y
    edge_x, edge_y = inner * math.sin(half), outer - inner * math.cos(half)  # from tip to notch
    length = math.hypot(edge_x, edge_y)
    return x * (edge_y / length) - (y + outer) * (edge_x / length)


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


# --- images -------------------------------------------------------------------------------------


def coverage(shape: str, center: Tensor, radius: Tensor, image_size: int) -> Tensor:
    """Share of each pixel that the shape covers: clamp(1/2 - d, 0, 1), d = distance in pixels.

    center [B, 2] and radius [B] in fractions of the side; returns [B, image_size, image_size]. Linear antialiasing over
    one pixel.
    """
    pixel = (torch.arange(image_size, device=center.device) + 0.5) / image_size
    scale = radius[:, None]
    x = rearrange((pixel - center[:, :1]) / scale, "b w -> b 1 w")
    y = rearrange((pixel - center[:, 1:]) / scale, "b h -> b h 1")
    grid = (len(radius), image_size, image_size)
    distance = _DISTANCES[shape](x.expand(grid), y.expand(grid))
    return (0.5 - distance * (scale * image_size)[:, None]).clamp(0.0, 1.0)


def render(scene: Scene, image_size: int) -> Tensor:
    """Every image of the scene: background + coverage * (color - background).

    Returns float32 [B, 3, image_size, image_size] in [-1, 1].
    """
    images = torch.empty(len(scene.shape), 3, image_size, image_size)
    background = rearrange(scene.background * 2.0 - 1.0, "b c -> b c 1 1")
    color = rearrange(scene.color * 2.0 - 1.0, "b c -> b c 1 1")
    for number, shape in enumerate(SHAPES):
        rows = (scene.shape == number).nonzero()[:, 0]
        if len(rows):
            mask = rearrange(coverage(shape, scene.center[rows], scene.radius[rows], image_size), "b h w -> b 1 h w")
            images[rows] = background[rows] + mask * (color[rows] - background[rows])
    return images


@lru_cache(maxsize=8)
def _combinations(split: Split) -> tuple[list[Attributes], Scene]:
    """What a split can show, without jitter: a row of the scene for each combination."""
    attributes = combinations(split)
    return attributes, Scene(
        shape=torch.tensor([SHAPES.index(one.shape) for one in attributes]),
        center=torch.tensor([PLACES[one.place] for one in attributes]),
        radius=torch.tensor([SIZES[one.size] for one in attributes]),
        color=torch.tensor([COLORS[one.color] for one in attributes]),
        background=torch.tensor([BACKGROUNDS[one.background] for one in attributes]),
    )


def choose_scene(seed: int, index: Tensor, split: Split) -> tuple[list[Attributes], Scene]:
    """What the images `index` show, chosen uniformly from the split, with jitter.

    index int64 [B], any integers. The center moves by at most PLACE_JITTER along each axis, the radius changes by at
    most SIZE_JITTER of itself, the shape's and the background's brightness by at most SHADE_JITTER each. A pure
    function of (seed, index).
    """
    attributes, exact = _combinations(split)
    choice = _shift_right(hashed(seed, index, 0), 1) % len(attributes)

    def jitter(stream: int) -> Tensor:
        return uniform(seed, index, stream) * 2.0 - 1.0

    shift = torch.stack([jitter(1), jitter(2)], dim=1) * PLACE_JITTER
    scene = Scene(
        shape=exact.shape[choice],
        center=exact.center[choice] + shift,
        radius=exact.radius[choice] * (jitter(3) * SIZE_JITTER + 1.0),
        color=exact.color[choice] + jitter(4)[:, None] * SHADE_JITTER,
        background=exact.background[choice] + jitter(5)[:, None] * SHADE_JITTER,
    )
    return [attributes[number] for number in choice.tolist()], scene


def render_samples(seed: int, indices: Sequence[int], split: Split, image_size: int) -> tuple[Tensor, list[Attributes]]:
    """The images `indices`, float32 [B, 3, S, S] in [-1, 1], and what each one shows.

    Image i is a pure function of (seed, i, split, image_size), whatever other images are rendered with it.
    """
    attributes, scene = choose_scene(seed, torch.tensor(indices, dtype=torch.int64), split)
    return render(scene, image_size), attributes
