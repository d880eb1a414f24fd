"""The values of a path between latents and noise: t = 0 is data, t = 1 is noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

from .contracts import latent_shift

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .contracts import CompressorModule, Posterior, TextEmbedding
    from .paths import Path


def clean_latent(posterior: Posterior, compressor: CompressorModule) -> Tensor:
    """x_0: the posterior's mean at unit variance, (mean - latent_shift) / latent_rms, [B, C, h, w].

    One global scale, the compressor's, brings the latents to unit variance (Rombach et al., 2022). A compressor
    without `latent_shift` has a shift of zero.
    """
    return (posterior.mean - latent_shift(compressor)) / compressor.latent_rms


def noise(clean_latent: Tensor, generator: torch.Generator) -> Tensor:
    """x_1 ~ N(0, 1) of the latent's shape: [B, C, h, w]."""
    import torch

    return torch.randn(clean_latent.shape, generator=generator, device=clean_latent.device, dtype=clean_latent.dtype)


def _only_of_ddpm(builder: Any, _: Attribute[Any], schedule: str | None) -> None:
    if schedule is not None and builder.kind == "rectified":
        raise ValueError(f"schedule is {schedule}: a rectified path has no schedule; set `kind: ddpm` as well")


def _determines_latent(builder: Any, _: Attribute[Any], predicts: str) -> None:
    if predicts == "epsilon" and builder.kind == "rectified":
        raise ValueError(
            "predicts is epsilon: sampling starts at t = 1, where a rectified path is only noise and a prediction of "
            "the noise does not determine the latent; set velocity or v"
        )


@frozen
class PathBuilder:
    """How noise is added, x_t = alpha(t) x_0 + sigma(t) noise, and what the network predicts; see `paths`.

    Training and sampling share it. `rectified`: alpha = 1 - t, sigma = t (Liu et al., 2022). `ddpm`: the discrete
    diffusion of 1000 steps with alpha^2 + sigma^2 = 1 (Ho et al., 2020), step k at t = k / 1000.
    """

    kind: Literal["rectified", "ddpm"] = "rectified"
    """The path."""
    schedule: Literal["linear", "scaled_linear", "cosine"] | None = field(default=None, validator=_only_of_ddpm)
    """Noise schedule of `ddpm` (null: scaled_linear); cosine leaves almost no latent at t = 1, so combine it with v."""
    predicts: Literal["velocity", "epsilon", "v"] = field(default="velocity", validator=_determines_latent)
    """velocity: dx_t/dt; epsilon: the noise; v: alpha noise - sigma x_0 (Salimans and Ho, 2022)."""

    def __call__(self) -> Path:
        """Build the path, the same for every batch."""
        from .paths import DdpmPath, RectifiedPath

        if self.kind == "rectified":
            return RectifiedPath(self.predicts)
        return DdpmPath(self.predicts, self.schedule or "scaled_linear")


@frozen
class Time:
    """t in [0, 1], one for each sample: [B]; on a `ddpm` path one of its 1000 steps.

    Logit-normal: t = sigmoid(mean + std n), n ~ N(0, 1), concentrates training on the middle, where prediction is
    hardest (Esser et al., 2024).
    """

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    """Distribution of the times in training."""
    mean: float = 0.0
    """Mean of the logit; above zero samples times with more noise."""
    std: float = field(default=1.0, validator=validators.gt(0))
    """Standard deviation of the logit."""

    def __call__(self, clean_latent: Tensor, path: Path, generator: torch.Generator) -> Tensor:
        """Sample a time for each sample of the batch."""
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
    """The network's prediction for x_t at t, given the text; `path` defines what it predicts: [B, C, h, w]."""
    predicted: Tensor = flow_processor(noisy_latent, time, text_embedding.tokens, text_embedding.mask)
    return predicted


def prediction_target(clean_latent: Tensor, noise: Tensor, time: Tensor, path: Path) -> Tensor:
    """The target of the prediction, as `path` defines it: dx_t/dt, noise, or alpha noise - sigma x_0: [B, C, h, w]."""
    return path.target(clean_latent, noise, time)


def predicted_latent(prediction: Tensor, noisy_latent: Tensor, time: Tensor, path: Path) -> Tensor:
    """The estimate of x_0 from the prediction at x_t and t: [B, C, h, w]."""
    return path.latent(prediction, noisy_latent, time)


def velocity(prediction: Tensor, noisy_latent: Tensor, time: Tensor, path: Path) -> Tensor:
    """The estimate of dx_t/dt from the prediction at x_t and t: [B, C, h, w]."""
    if path.predicts == "velocity":
        return prediction
    return path.velocity(path.latent(prediction, noisy_latent, time), path.noise(prediction, noisy_latent, time), time)


def velocity_target(clean_latent: Tensor, noise: Tensor, time: Tensor, path: Path) -> Tensor:
    """dx_t/dt = alpha'(t) x_0 + sigma'(t) noise, on a rectified path noise - x_0: [B, C, h, w]."""
    return path.velocity(clean_latent, noise, time)
