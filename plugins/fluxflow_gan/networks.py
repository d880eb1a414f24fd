"""The patch discriminator: one logit for each patch of an image, positive for real."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm


class PatchDiscriminator(nn.Module):
    """Patch logits of an image (Isola et al., "Image-to-image translation", 2017).

    image [B, 3, H, W] to logits [B, 1, H/2^depth, W/2^depth], positive for real: `depth` strided
    convolutions whose width doubles each time (up to four times the first), and two of stride 1, of which the last
    returns the logits. It has no batch statistics, so that R1 and single images are well defined; with `spectral_norm`
    every convolution has a Lipschitz constant of about one (Miyato et al., 2018).

    With `details` > 0 its input is [x, details * (x - mean of x over 3x3)]: a blurred edge differs from
    a sharp one only in the fine scales, which are small in x. Separated from x they let the discriminator learn in
    hundreds of batches instead of tens of thousands (after the wavelet discriminator of Gal et al., "SWAGAN", 2021).

    With `context_width` D it is a projection discriminator (Miyato and Koyama, "cGANs with projection
    discriminator", 2018): the logit of a patch with features f is psi(f) + <V c, f> for a context c [B, D].
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
                # A gain of one through leaky ReLU (He et al., 2015). With torch's own initialization signals shrink at
                # every layer, and the discriminator spends its first hundreds of batches on scaling up its weights.
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if spectral_norm:
            layers = [with_spectral_norm(x) if isinstance(x, nn.Conv2d) else x for x in layers]
        self.body = nn.Sequential(*layers)
        self.projection: nn.Module | None = None
        if context_width is not None:
            projection = nn.Linear(context_width, widths[-1], bias=False)
            # A context of unit variance changes a logit by about as much as the image does.
            nn.init.normal_(projection.weight, std=(context_width * widths[-1]) ** -0.5)
            self.projection = with_spectral_norm(projection) if spectral_norm else projection

    def forward(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the logit of every patch: psi(f), plus <V c, f> if there is a context c [B, D].

        Raises ValueError for a context without a `context_width`.
        """
        if context is not None and self.projection is None:
            raise ValueError("the discriminator takes no context: set its `context_width` to the width of the context")
        if self.details:
            smooth = avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
            image = torch.cat([image, self.details * (image - smooth)], dim=1)
        features = self.body[:-1](image)
        logits: Tensor = self.body[-1](features)
        if context is not None and self.projection is not None:
            logits = logits + torch.einsum("bfhw,bf->bhw", features, self.projection(context))[:, None]
        return logits
