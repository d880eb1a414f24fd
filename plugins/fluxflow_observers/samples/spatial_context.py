"""A spatial context as a picture."""

from __future__ import annotations

from typing import Any

from fluxflow_registry import FluxflowError


def context_pictures(context: Any, height: int, width: int) -> Any:
    """A spatial context [B, C, h, w] as pictures [B, 3, height, width] in [-1, 1].

    Red, green and blue are the first three principal directions of its channels over the positions of
    each sample, each stretched from its least to its greatest value; a direction points to where its
    largest component is positive. Up to three channels are shown as they are, stretched in the same way;
    what is missing to three is grey. Positions are squares of pixels.
    """
    import torch
    from torch.nn.functional import interpolate

    if not isinstance(context, torch.Tensor) or context.ndim != 4:
        found = f"a tensor {list(context.shape)}" if isinstance(context, torch.Tensor) else type(context).__name__
        raise FluxflowError(f"observer `samples` cannot show the context: it is [B, C, h, w], this is {found}")
    coloured = torch.stack([_colours(sample) for sample in context.detach().double().cpu()])
    return interpolate(coloured.float(), (height, width), mode="nearest")


def _colours(sample: Any) -> Any:
    """[C, h, w] to [3, h, w] in [-1, 1]."""
    import torch

    channels, h, w = sample.shape
    rows = sample.nan_to_num(posinf=0.0, neginf=0.0).reshape(channels, h * w)
    shown = rows if channels <= 3 else _principal(rows)
    low, high = shown.amin(dim=1, keepdim=True), shown.amax(dim=1, keepdim=True)
    # What is the same everywhere is grey, and so is what differs by rounding alone.
    flat = high - low <= 1e-9 * rows.abs().amax()
    stretched = torch.where(flat, 0.0, 2 * (shown - low) / torch.where(flat, 1.0, high - low) - 1)
    colours = torch.zeros(3, h * w, dtype=stretched.dtype)
    colours[: len(stretched)] = stretched
    return colours.reshape(3, h, w)


def _principal(rows: Any) -> Any:
    """The projections on the first three principal directions: [3, n] of [C, n], centred."""
    import torch

    centred = rows - rows.mean(dim=1, keepdim=True)
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    directions = vectors.flip(1)[:, :3].T
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()) @ centred
