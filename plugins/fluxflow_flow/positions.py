"""Positions of tokens in a grid: added sines and cosines, or rotated queries and keys."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Positions per radian of the slowest wave.
LONGEST = 100.0


def sinusoids(position: Tensor, width: int, longest: float) -> Tensor:
    """Encode positions [...] as sines and cosines [..., width] (Vaswani et al., 2017).

    Angular frequencies fall geometrically from 1 to 1 / longest.
    """
    angle = _angles(position, width // 2, longest)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def grid_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Encode a grid, half of the channels by row and half by column: [rows * columns, width].

    Computed for each grid, so that any height and width are possible.
    """
    row = sinusoids(torch.arange(rows, device=device), width // 2, LONGEST)
    column = sinusoids(torch.arange(columns, device=device), width // 2, LONGEST)
    return _grid(row, column)


class Rotation(NamedTuple):
    """The angle by which each token's pairs of channels are rotated: cosines and sines, each [N, channels / 2]."""

    cos: Tensor
    sin: Tensor


def grid_rotation(rows: int, columns: int, channels: int, device: torch.device) -> Rotation:
    """The rotation of a grid, for heads of `channels` channels: half of the pairs by row, half by column.

    Products of a rotated query and key depend only on their distance in rows and columns (RoPE: Su et al., 2021; in
    two dimensions: Heo et al., 2024).
    """
    row = _angles(torch.arange(rows, device=device), channels // 4, LONGEST)
    column = _angles(torch.arange(columns, device=device), channels // 4, LONGEST)
    angle = _grid(row, column)
    return Rotation(angle.cos(), angle.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate pairs of channels of x [B, heads, N, channels]: channel i with channel i + channels / 2."""
    cos, sin = by.cos.to(x.dtype), by.sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _angles(position: Tensor, count: int, longest: float) -> Tensor:
    """Angles [..., count] at frequencies from 1 to 1 / longest."""
    frequency = torch.exp(torch.arange(count, device=position.device) * (-math.log(longest) / max(count - 1, 1)))
    return position[..., None].float() * frequency


def _grid(row: Tensor, column: Tensor) -> Tensor:
    """Encodings of rows [R, D] and columns [C, D] for every position of the grid: [R * C, 2 D]."""
    rows, columns = row[:, None].expand(-1, len(column), -1), column.expand(len(row), -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
