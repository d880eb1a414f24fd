"""Where a token stands in the grid: added sines and cosines, or rotated queries and keys."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Places over which the slowest wave of a position turns by one radian.
LONGEST = 100.0


def sinusoids(position: Tensor, width: int, longest: float) -> Tensor:
    """Encode positions [...] as sines and cosines [..., width] (Vaswani et al., 2017).

    Angular frequencies fall geometrically from 1 to 1 / longest.
    """
    angle = _angles(position, width // 2, longest)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Encode a grid: half of the channels tell the row, half the column; [rows * columns, width].

    Computed for the grid at hand, so that any height and width are possible.
    """
    row = sinusoids(torch.arange(rows, device=device), width // 2, LONGEST)
    column = sinusoids(torch.arange(columns, device=device), width // 2, LONGEST)
    return _grid(row, column)


class Rotation(NamedTuple):
    """By how much the channels of each token are turned: cosines and sines, each [N, channels / 2]."""

    cos: Tensor
    sin: Tensor


def rotation(rows: int, columns: int, channels: int, device: torch.device) -> Rotation:
    """The rotation of a grid for heads of so many channels: half of the pairs turn with the row, half with the column.

    Products of a rotated query and key depend on the distance in rows and columns alone (RoPE: Su et al., 2021; in
    two dimensions: Heo et al., 2024).
    """
    row = _angles(torch.arange(rows, device=device), channels // 4, LONGEST)
    column = _angles(torch.arange(columns, device=device), channels // 4, LONGEST)
    angle = _grid(row, column)
    return Rotation(angle.cos(), angle.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn pairs of channels of x [B, heads, N, channels]: channel i with channel i + channels / 2."""
    cos, sin = by.cos.to(x.dtype), by.sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _angles(position: Tensor, count: int, longest: float) -> Tensor:
    """Angles [..., count] at frequencies from 1 to 1 / longest."""
    frequency = torch.exp(torch.arange(count, device=position.device) * (-math.log(longest) / max(count - 1, 1)))
    return position[..., None].float() * frequency


def _grid(row: Tensor, column: Tensor) -> Tensor:
    """What is known of rows [R, D] and columns [C, D], place by place: [R * C, 2 D]."""
    rows, columns = len(row), len(column)
    return torch.cat([row[:, None].expand(rows, columns, -1), column[None].expand(rows, columns, -1)], dim=-1).flatten(
        0, 1
    )
