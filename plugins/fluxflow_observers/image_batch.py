"""Values that are shown as images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxflow_registry import FluxflowError, Problem

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
    raise FluxflowError(Problem(message, code="wrong-shape", subject=name))
