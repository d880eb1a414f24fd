"""The losses of a path: each for one thing that the network may predict; and the alignment with the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fluxflow_flow.contracts import TextEmbedding
    from fluxflow_flow.paths import Path

#: What a path predicts, and the loss that is right for it.
LOSSES = {"velocity": "velocity", "epsilon": "epsilon", "v": "v_prediction"}


@frozen
class _PredictionLoss:
    """Mean squared error of the prediction, refused where the path predicts something else."""

    predicts: ClassVar[str]

    min_snr_gamma: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Weighs x_0's error by min(SNR, this), as Hang et al. (2023) do with 5; null: every time counts the same."""

    def __call__(self, prediction: Tensor, prediction_target: Tensor, time: Tensor, path: Path) -> Tensor:
        """Compare; raises ValueError where the path predicts something else."""
        if path.predicts != self.predicts:
            raise ValueError(
                f"`path` predicts {path.predicts}: its loss is `{LOSSES[path.predicts]}`; "
                f"`{LOSSES[self.predicts]}` needs `values: {{path: {{predicts: {self.predicts}}}}}`"
            )
        error = (prediction - prediction_target).square()
        if self.min_snr_gamma is None:
            return error.mean()
        return (path.min_snr_weight(time, self.min_snr_gamma) * error.flatten(1).mean(dim=1)).mean()


@frozen
class Velocity(_PredictionLoss):
    """Mean of (v(x_t, t) - dx_t/dt)^2 over all elements (Liu et al., 2022), with dx_t/dt = noise - x_0 if rectified.

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
    """Mean over the samples of 1 - cos(P(image), text): pictures point where their texts do; 0-d, in [0, 2].

    image [B, C] is the estimate of x_0 (`predicted_latent`), averaged over its places; text [B, D] is the average of
    the text's tokens without the padding; P is the model `projection` from C to D. The gradient reaches the flow
    model, the text encoder and the projection, those of them that the update trains. It draws true pairs together
    and pushes nothing apart: beside a loss of the prediction, with a small weight.
    """
    from torch.nn.functional import cosine_similarity

    from fluxflow_flow.blocks import pooled_text

    image = projection(predicted_latent.flatten(2).mean(dim=2))
    return (1 - cosine_similarity(image, pooled_text(text_embedding.tokens, text_embedding.mask), dim=1)).mean()
