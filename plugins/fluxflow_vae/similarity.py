"""Structural similarity of two batches of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def largest_window(window: int, image: Tensor) -> int:
    """The window's side, reduced to the largest odd side that fits the image."""
    height, width = image.shape[-2:]
    side = min(window, height, width)
    return side - 1 + side % 2


def gaussian(window: int, sigma: float, like: Tensor) -> Tensor:
    """A Gaussian window [window] that sums to one."""
    offset = torch.arange(window, device=like.device, dtype=like.dtype) - (window - 1) / 2
    weight = torch.exp(-0.5 * (offset / sigma).square())
    return weight / weight.sum()


def ssim(p: Tensor, t: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Mean structural similarity of images [B, C, H, W] in a Gaussian window; see `ssim_of_blurred`."""
    weight = gaussian(largest_window(window, p), sigma, p)
    channels = p.shape[1]
    rows = weight.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = weight.view(1, 1, 1, -1).expand(channels, 1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        return conv2d(conv2d(x, rows, groups=channels), columns, groups=channels)

    return ssim_of_blurred(p, t, blur)


def ssim_of_blurred(p: Tensor, t: Tensor, blur: Callable[[Tensor], Tensor], span: float = 2.0) -> Tensor:
    """Mean structural similarity of images [B, C, H, W] whose values span `span` (Wang et al., 2004).

    0-d, at most 1. `blur` is the weighted mean over each window.
    """
    mean_p, mean_t = blur(p), blur(t)
    var_p = blur(p * p) - mean_p.square()
    var_t = blur(t * t) - mean_t.square()
    covariance = blur(p * t) - mean_p * mean_t
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * mean_p * mean_t + c1) / (mean_p.square() + mean_t.square() + c1)
    structure = (2 * covariance + c2) / (var_p + var_t + c2)
    return (luminance * structure).mean()
