"""The values of a path between latents and noise: t = 0 is data, t = 1 is noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    # Structural: any posterior with a mean, any embedding with tokens and mask.
    from fluxflow_flow.contracts import CompressorModule, Posterior, TextEmbedding
    from fluxflow_flow.paths import Path


def clean_latent(posterior: Posterior, compressor: CompressorModule) -> Tensor:
    """x_0: the posterior's mean at unit size, (mean - latent_shift) / latent_rms, [B, C, h, w].

    One global scale, the compressor's own, brings the latents to unit size (Rombach et al., 2022). A compressor
    without `latent_shift` has none.
    """
    from fluxflow_flow.scale import clean

    return clean(posterior.mean, compressor)


def noise(clean_latent: Tensor, generator: torch.Generator) -> Tensor:
    """x_1 ~ N(0, 1) of the latent's shape: [B, C, h, w]."""
    import torch

    return torch.randn(clean_latent.shape, generator=generator, device=clean_latent.device, dtype=clean_latent.dtype)


def _fits_kind(options: Any, attribute: Attribute[Any], schedule: str | None) -> None:
    """Hold that only a discrete diffusion has a schedule."""
    if schedule is not None and options.kind == "rectified":
        raise ValueError(f"schedule is {schedule}: a rectified path has none; it belongs to `kind: ddpm`")


def _tells_the_latent(options: Any, attribute: Attribute[Any], predicts: str) -> None:
    """Hold that a latent can be told from the prediction at t = 1, where drawing begins."""
    if predicts == "epsilon" and options.kind == "rectified":
        raise ValueError(
            "predicts is epsilon: a rectified path is noise alone at t = 1, where that says nothing of the latent; "
            "it predicts velocity or v"
        )


@frozen
class PathOptions:
    """How noise is mixed in, x_t = alpha(t) x_0 + sigma(t) noise, and what the network predicts; see `paths`.

    Training and drawing share it. `rectified`: alpha = 1 - t, sigma = t (Liu et al., 2022). `ddpm`: the discrete
    diffusion of 1000 steps with alpha^2 + sigma^2 = 1 (Ho et al., 2020), step k at t = k / 1000.
    """

    kind: Literal["rectified", "ddpm"] = "rectified"
    """The path."""
    schedule: Literal["linear", "scaled_linear", "cosine"] | None = field(default=None, validator=_fits_kind)
    """How the noise of `ddpm` grows (null: scaled_linear); after cosine almost no latent is left, which calls for v."""
    predicts: Literal["velocity", "epsilon", "v"] = field(default="velocity", validator=_tells_the_latent)
    """velocity: dx_t/dt; epsilon: the noise; v: alpha noise - sigma x_0 (Salimans and Ho, 2022)."""

    def __call__(self) -> Path:
        """Give the path, the same for every batch."""
        from fluxflow_flow.paths import DdpmPath, RectifiedPath

        if self.kind == "rectified":
            return RectifiedPath(self.predicts)
        return DdpmPath(self.predicts, self.schedule or "scaled_linear")


@frozen
class Time:
    """t in [0, 1], one for each sample: [B]; on a `ddpm` path one of its 1000 steps.

    Logit-normal: t = sigmoid(mean + std n), n ~ N(0, 1), puts the effort where it is hardest, in the
    middle (Esser et al., 2024).
    """

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    """How times are drawn in training."""
    mean: float = 0.0
    """Mean of the logit; above zero draws more noise."""
    std: float = field(default=1.0, validator=validators.gt(0))
    """Standard deviation of the logit."""

    def __call__(self, clean_latent: Tensor, path: Path, generator: torch.Generator) -> Tensor:
        """Draw a time for each sample."""
        import torch

        count, device = len(clean_latent), clean_latent.device
        if self.distribution == "uniform":
            return path.on_grid(torch.rand(count, generator=generator, device=device))
        normal = torch.randn(count, generator=generator, device=device)
        return path.on_grid(torch.sigmoid(self.mean + self.std * normal))


def noisy_latent(clean_latent: Tensor, noise: Tensor, time: Tensor, path: Path) -> Tensor:
    """x_t = alpha(t) x_0 + sigma(t) noise, [B, C, h, w]."""
    return path.noisy(clean_latent, noise, time)


def prediction(noisy_latent: Tensor, time: Tensor, text_embedding: TextEmbedding, flow_processor: nn.Module) -> Tensor:
    """What the network says of x_t at t, given the text; `path` says what that means: [B, C, h, w]."""
    found: Tensor = flow_processor(noisy_latent, time, text_embedding.tokens, text_embedding.mask)
    return found


def prediction_target(clean_latent: Tensor, noise: Tensor, time: Tensor, path: Path) -> Tensor:
    """What the prediction should be, as `path` says: dx_t/dt, the noise, or alpha noise - sigma x_0: [B, C, h, w]."""
    return path.target(clean_latent, noise, time)


def predicted_latent(prediction: Tensor, noisy_latent: Tensor, time: Tensor, path: Path) -> Tensor:
    """The estimate of x_0 that the prediction at x_t and t amounts to: [B, C, h, w]."""
    return path.latent(prediction, noisy_latent, time)


def velocity(prediction: Tensor, noisy_latent: Tensor, time: Tensor, path: Path) -> Tensor:
    """The estimate of dx_t/dt that the prediction at x_t and t amounts to: [B, C, h, w]."""
    if path.predicts == "velocity":
        return prediction
    return path.velocity(path.latent(prediction, noisy_latent, time), path.noise(prediction, noisy_latent, time), time)


def velocity_target(clean_latent: Tensor, noise: Tensor, time: Tensor, path: Path) -> Tensor:
    """dx_t/dt = alpha'(t) x_0 + sigma'(t) noise, on a rectified path noise - x_0: [B, C, h, w]."""
    return path.velocity(clean_latent, noise, time)
