"""Builder of the discriminator; torch is imported only when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn


@frozen
class PatchDiscriminatorBuilder:
    """Convolutional logits of overlapping patches; see `networks.PatchDiscriminator`."""

    width: int = field(default=32, validator=validators.ge(1))
    """Channels after the first convolution; doubled at each halving, up to four times."""
    depth: int = field(default=2, validator=validators.ge(1))
    """Halvings of the resolution: more of them make larger patches."""
    spectral_norm: bool = False
    """Whether every convolution is divided by its largest singular value."""
    details: float = field(default=4.0, validator=validators.ge(0.0))
    """Factor of the fine details that are passed as three additional channels; 0: the image alone is passed."""
    context_width: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Width of the context that `*_projected_logits` pass to it: the text encoder's, or the channels of the latent for
    `latent_vector`; null: it takes no context."""

    def __call__(self) -> nn.Module:
        """Build the model with new weights."""
        import torch

        from .networks import PatchDiscriminator

        if not self.spectral_norm or torch.get_default_device().type != "meta":
            return PatchDiscriminator(**asdict(self))
        # For spectral norm torch iterates on every weight, which takes seconds on the meta device, for nothing.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return PatchDiscriminator(**asdict(self)).to("meta")
