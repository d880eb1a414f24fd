"""The loss between the spectra of an image and its reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class Spectral:
    """Mean of |F(p) - F(t)| over all frequencies of the half plane, F the orthonormal real Fourier transform.

    p, t: [B, C, H, W]; F: [B, C, H, W // 2 + 1], complex, so that phase counts as well as magnitude. The transform is
    linear and is applied once, to the difference. It preserves energy (Parseval), but L1 weighs weak high frequencies
    more than a square does (Jiang et al., "Focal frequency loss", 2021, has the squared form).
    """

    default_weight: ClassVar[float] = 0.1

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the mean magnitude of the difference."""
        import torch

        spectrum: Tensor = torch.fft.rfft2(reconstruction - image, norm="ortho")
        return spectrum.abs().mean()
