"""The patch discriminator: says of every patch of a picture how real it looks."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils.parametrizations import spectral_norm as normalised


class PatchDiscriminator(nn.Module):
    """Patch logits of a picture (Isola et al., "Image-to-image translation", 2017).

    image [B, 3, H, W] to logits [B, 1, H/2^depth, W/2^depth], positive for real: `depth` strided
    convolutions whose width doubles each time (up to four times the first), and one that scores.
    No batch statistics, so that R1 and single pictures are well defined; with `spectral_norm` every
    convolution has Lipschitz constant about one (Miyato et al., 2018).

    With `details` > 0 it sees [x, details * (x - mean of x over 3x3)]: a blurred edge differs from
    a sharp one in the fine scales alone, which are small in x, and seeing them apart lets the
    discriminator learn in hundreds of batches instead of tens of thousands (after the wavelet
    discriminator of Gal et al., "SWAGAN", 2021).

    With `context_width` D it is a projection discriminator (Miyato and Koyama, "cGANs with projection
    discriminator", 2018): a patch with features f scores psi(f) + <V c, f> for a context c [B, D].
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 2,
        spectral_norm: bool = False,
        details: float = 4.0,
        context_width: int | None = None,
    ) -> None:
        super().__init__()
        self.downscale, self.details = 2**depth, details
        widths = [6 if details else 3, *(width * min(2**level, 4) for level in range(depth))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers += [
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(widths[-1], 1, 3, padding=1),
        ]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                _keep_scale(layer)
        if spectral_norm:
            layers = [normalised(x) if isinstance(x, nn.Conv2d) else x for x in layers]
        self.body = nn.Sequential(*layers)
        self.projection: nn.Module | None = None
        if context_width is not None:
            projection = nn.Linear(context_width, widths[-1], bias=False)
            # A context of unit scale moves a score by about as much as the picture does.
            nn.init.normal_(projection.weight, std=(context_width * widths[-1]) ** -0.5)
            self.projection = normalised(projection) if spectral_norm else projection

    def forward(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """Score every patch of the image, by a context [B, D] where one is given.

        Raises ValueError for a context without a `context_width`; without a context psi(f) alone is given.
        """
        if context is not None and self.projection is None:
            raise ValueError("the discriminator has no `context_width`, so it cannot be told a context")
        if self.details:
            smooth = avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
            image = torch.cat([image, self.details * (image - smooth)], dim=1)
        features = self.body[:-1](image)
        logits: Tensor = self.body[-1](features)
        if context is not None and self.projection is not None:
            logits = logits + torch.einsum("bfhw,bf->bhw", features, self.projection(context))[:, None]
        return logits


def _keep_scale(layer: nn.Conv2d) -> None:
    """Let a convolution start at a gain of one through leaky ReLU (He et al., 2015).

    With torch's own start a signal shrinks at every layer, and a discriminator spends its first
    hundreds of batches on growing.
    """
    nn.init.kaiming_normal_(layer.weight, a=0.2)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
