"""Values that are shown as images: image batches, and spatial contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxflow_registry import FluxflowError

if TYPE_CHECKING:
    from torch import Tensor


def image_batch(name: str, value: Any, observer: str, channels: tuple[int, ...] = (1, 3)) -> Tensor:
    """The value as images [B, C, H, W]; raises FluxflowError for one that has another shape."""
    import torch

    if isinstance(value, torch.Tensor) and value.ndim == 4 and (not channels or value.shape[1] in channels):
        return value
    received = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    expected = f"[B, {' or '.join(map(str, channels)) or 'C'}, H, W]"
    message = f"observer `{observer}` cannot show `{name}`: an image batch has the shape {expected}, not {received}"
    raise FluxflowError(message, code="wrong-shape", subject=name)


def context_images(context: Any, height: int, width: int) -> Tensor:
    """A spatial context [B, C, h, w] as images [B, 3, height, width] in [-1, 1].

    Red, green and blue are the first three principal directions of its channels over the positions of
    each sample, each stretched from its smallest to its largest value; a direction points to where its
    largest component is positive. Up to three channels are shown as they are, stretched in the same way;
    a missing color is gray. Each position is a rectangle of pixels.
    """
    import torch
    from torch.nn.functional import interpolate

    batch = image_batch("context", context, "samples", channels=())
    colored = torch.stack([_colors(sample) for sample in batch.detach().double().cpu()])
    return interpolate(colored.float(), (height, width), mode="nearest")


def _colors(sample: Tensor) -> Tensor:
    """[C, h, w] to [3, h, w] in [-1, 1]."""
    import torch

    channels, h, w = sample.shape
    rows = sample.nan_to_num(posinf=0.0, neginf=0.0).reshape(channels, h * w)
    shown = rows if channels <= 3 else _principal(rows)
    low, high = shown.amin(dim=1, keepdim=True), shown.amax(dim=1, keepdim=True)
    # A constant channel is gray, and so is one that varies by rounding alone.
    flat = high - low <= 1e-9 * rows.abs().amax()
    stretched = torch.where(flat, 0.0, 2 * (shown - low) / torch.where(flat, 1.0, high - low) - 1)
    colors = torch.zeros(3, h * w, dtype=stretched.dtype)
    colors[: len(stretched)] = stretched
    return colors.reshape(3, h, w)


def _principal(rows: Tensor) -> Tensor:
    """The projections [3, n] of centered rows [C, n] on their first three principal directions."""
    import torch

    centered = rows - rows.mean(dim=1, keepdim=True)
    _, vectors = torch.linalg.eigh(centered @ centered.T)
    directions = vectors.flip(1)[:, :3].T
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    projections: Tensor = (directions * largest.sign()) @ centered
    return projections
