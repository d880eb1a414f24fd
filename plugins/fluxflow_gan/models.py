"""Options of the discriminator; torch is imported only when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


@frozen
class PatchDiscriminatorBuilder:
    """Convolutional scores of overlapping patches; see `networks.PatchDiscriminator`."""

    width: int = field(default=32, validator=validators.ge(1))
    """Channels after the first convolution; doubled at each halving, up to four times."""
    depth: int = field(default=2, validator=validators.ge(1))
    """Halvings of the resolution: more of them look at larger patches."""
    spectral_norm: bool = False
    """Whether every convolution is divided by its largest singular value."""
    details: float = field(default=4.0, validator=validators.ge(0.0))
    """Gain at which fine detail is shown beside the picture; 0 shows the picture alone."""
    context_width: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Width of the context that it is told by `*_projected_logits`: that of the text encoder; None: it is told none."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_gan.networks import PatchDiscriminator

        return PatchDiscriminator(
            width=self.width,
            depth=self.depth,
            spectral_norm=self.spectral_norm,
            details=self.details,
            context_width=self.context_width,
        )
