"""A loss for each kind of prediction, and the alignment of latents with the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .contracts import TextEmbedding
    from .paths import Path

#: For each kind of prediction, the name of its loss.
LOSSES = {"velocity": "velocity", "epsilon": "epsilon", "v": "v_prediction"}


@frozen
class _PredictionLoss:
    """Mean squared error of the prediction, for paths with this kind of prediction only."""

    predicts: ClassVar[str]

    min_snr_gamma: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Weights the error of x_0 by min(SNR, this), as Hang et al. (2023) do with 5; null: all times count equally."""

    def __call__(self, prediction: Tensor, prediction_target: Tensor, time: Tensor, path: Path) -> Tensor:
        """Return the error; raises ValueError if the path has another kind of prediction."""
        if path.predicts != self.predicts:
            raise ValueError(
                f"value `path` predicts {path.predicts}: use loss `{LOSSES[path.predicts]}`, or set "
                f"`values: {{path: {{predicts: {self.predicts}}}}}` for loss `{LOSSES[self.predicts]}`"
            )
        error = (prediction - prediction_target).square()
        if self.min_snr_gamma is None:
            return error.mean()
        return (path.min_snr_weight(time, self.min_snr_gamma) * error.flatten(1).mean(dim=1)).mean()


@frozen
class Velocity(_PredictionLoss):
    """Mean of (v(x_t, t) - dx_t/dt)^2 over all elements (Liu et al., 2022); dx_t/dt = noise - x_0 if rectified.

    With `min_snr_gamma` g each sample is weighted: on a rectified path by min(SNR, g) t^2, SNR = ((1 - t) / t)^2.
    """

    predicts: ClassVar[str] = "velocity"


@frozen
class Epsilon(_PredictionLoss):
    """Mean of (eps(x_t, t) - noise)^2 over all elements (Ho et al., 2020).

    With `min_snr_gamma` g each sample is weighted by min(SNR, g) / SNR.
    """

    predicts: ClassVar[str] = "epsilon"


@frozen
class VPrediction(_PredictionLoss):
    """Mean of (v(x_t, t) - (alpha noise - sigma x_0))^2 over all elements (Salimans and Ho, 2022).

    With `min_snr_gamma` g each sample is weighted by min(SNR, g) / (SNR + 1) where alpha^2 + sigma^2 = 1, as on a
    `ddpm` path; on a rectified path by min(SNR, g) (sigma / (alpha^2 + sigma^2))^2. Not the velocity dx_t/dt.
    """

    predicts: ClassVar[str] = "v"


def alignment(predicted_latent: Tensor, text_embedding: TextEmbedding, projection: nn.Module) -> Tensor:
    """Mean over samples of 1 - cos(P(image), text), which aligns images with their captions; 0-d, in [0, 2].

    image [B, C] is the estimate of x_0 (`predicted_latent`), averaged over its positions; text [B, D] is the mean of
    the text's tokens without padding; P is the model `projection` from C to D. The gradient reaches the flow
    model, the text encoder and the projection, if the update trains them. A loss of our own, which pulls matching pairs
    together and does not push other pairs apart: use it beside a loss of the prediction, with a small weight.
    """
    from torch.nn.functional import cosine_similarity

    from .transformer import mean_token

    image = projection(predicted_latent.flatten(2).mean(dim=2))
    return (1 - cosine_similarity(image, mean_token(text_embedding.tokens, text_embedding.mask), dim=1)).mean()
