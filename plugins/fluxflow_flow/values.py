"""The values of a rectified flow (Liu et al., 2022; Lipman et al., 2023): t = 0 is data, t = 1 is noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    # Structural: any posterior with a mean, any embedding with tokens and mask.
    from fluxflow_flow.contracts import CompressorModule, Posterior, TextEmbedding


def clean_latent(posterior: Posterior, compressor: CompressorModule) -> Tensor:
    """x_0: the posterior's mean over its root mean square `compressor.latent_rms`, [B, C, h, w].

    One global scale brings the latents to unit size (Rombach et al., 2022).
    """
    return posterior.mean / compressor.latent_rms


def noise(clean_latent: Tensor, generator: torch.Generator) -> Tensor:
    """x_1 ~ N(0, 1) of the latent's shape: [B, C, h, w]."""
    import torch

    return torch.randn(clean_latent.shape, generator=generator, device=clean_latent.device, dtype=clean_latent.dtype)


@frozen
class Time:
    """t in [0, 1], one for each sample: [B].

    Logit-normal: t = sigmoid(mean + std n), n ~ N(0, 1), puts the effort where it is hardest, in the
    middle (Esser et al., 2024).
    """

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    """How times are drawn in training."""
    mean: float = 0.0
    """Mean of the logit; above zero draws more noise."""
    std: float = field(default=1.0, validator=validators.gt(0))
    """Standard deviation of the logit."""

    def __call__(self, clean_latent: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a time for each sample."""
        import torch

        count, device = len(clean_latent), clean_latent.device
        if self.distribution == "uniform":
            return torch.rand(count, generator=generator, device=device)
        return torch.sigmoid(self.mean + self.std * torch.randn(count, generator=generator, device=device))


def noisy_latent(clean_latent: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t x_1, [B, C, h, w]."""
    import torch

    return torch.lerp(clean_latent, noise, time.to(clean_latent.dtype)[:, None, None, None])


def velocity_target(clean_latent: Tensor, noise: Tensor) -> Tensor:
    """dx_t/dt = x_1 - x_0, [B, C, h, w]."""
    return noise - clean_latent


def velocity(noisy_latent: Tensor, time: Tensor, text_embedding: TextEmbedding, flow_processor: nn.Module) -> Tensor:
    """The network's dx_t/dt at x_t and t, given the text: [B, C, h, w]."""
    found: Tensor = flow_processor(noisy_latent, time, text_embedding.tokens, text_embedding.mask)
    return found
