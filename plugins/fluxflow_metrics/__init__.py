"""Measures of how well an autoencoder gives its images back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxflow_registry import Register, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def psnr(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(2^2 / mse) in dB for images in [-1, 1], the mean over images."""
    error = (reconstruction.clamp(-1, 1) - image).square().flatten(1).mean(dim=1)
    return (10 * (4 / error.clamp(min=1e-12)).log10()).mean()


def sharpness(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Energy of the gradients of the reconstruction over that of the image: 1 is as sharp as the original.

    E|dx p|^2 + E|dy p|^2 over the same for t; blur lowers it.
    """

    def energy(x: Tensor) -> Tensor:
        return x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()

    return energy(reconstruction) / energy(image)


@hookimpl
def fluxflow_register_metrics(register: Register) -> None:
    """Register the measures."""
    register("psnr", psnr)
    register("sharpness", sharpness)
