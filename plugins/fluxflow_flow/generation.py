"""Images generated from captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import ComputedValue, DataError

from .contracts import latent_shift

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fluxflow_registry import NoisePath, VelocityField

    from .contracts import CompressorModule, ExpanderModule, FlowModule
    from .paths import Path


def to_own_scale(x_0: Tensor, compressor: CompressorModule) -> Tensor:
    """x_0 as the expander decodes it, the inverse of value `clean_latent`: x_0 latent_rms + latent_shift."""
    return x_0 * compressor.latent_rms + latent_shift(compressor)


def drops_captions(values: Mapping[str, ComputedValue]) -> bool:
    """Whether something between the captions and their embedding may replace some of them, as `prompt` does."""
    waiting, found = list(values["text_embedding"].needs.values()), []
    while waiting:
        value = values.get(waiting.pop())
        if value is not None:
            found.append(value.component)
            waiting += value.needs.values()
    return any(getattr(each, "dropout", 1.0) > 0 for each in found)


@frozen
class GeneratedImage:
    """Images of the captions: the path integrated from noise to data, then decoded; [B, 3, H, W] in [-1, 1].

    Classifier-free guidance (Ho and Salimans, 2022): v = v_u + guidance (v_c - v_u), with v_u the prediction
    for the empty caption; both are computed in one batch. Every kind of prediction is converted to the velocity of
    a linear path (`paths.LinearPath`), which samplers integrate. At t = 1 the latent is N(0, 1).
    """

    guidance: float = field(default=3.0, validator=validators.ge(0))
    """Strength of the caption: 1 generates what was learned, larger values exaggerate it."""
    negative_prompt: str = ""
    """Caption that replaces the empty one in v_u."""

    def notes(self, steps: Sequence[Mapping[str, ComputedValue]]) -> list[str]:
        """Guidance that compares captions with an empty one that was never trained, and options without effect."""
        if self.guidance == 1.0:
            unused = "has no effect without guidance: set a `guidance` other than 1"
            return [f"`negative_prompt` {unused}"] if self.negative_prompt else []
        trained = [values for values in steps if "text_embedding" in values and "prediction" in values]
        if self.negative_prompt or not trained or any(map(drops_captions, trained)):
            return []
        what = f"`guidance: {self.guidance:g}` compares a caption with the empty one, which was never trained on"
        return [f"{what}: drop captions in training (`values: {{prompt: {{dropout: 0.1}}}}`), or set `guidance: 1`"]

    def __call__(
        self,
        caption: list[str],
        image_size: tuple[int, int],
        text_encoder: nn.Module,
        flow_processor: FlowModule,
        compressor: CompressorModule,
        expander: ExpanderModule,
        path: Path,
        sampler: Callable[[VelocityField, Tensor, NoisePath], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Generate one image for each caption; raises DataError for sides that are not multiples of a latent patch."""
        import torch

        from .paths import LinearPath

        multiple = expander.downscale * flow_processor.patch
        if any(side <= 0 or side % multiple for side in image_size):
            size, rule = f"{image_size[1]} x {image_size[0]} pixels", f"its sides must be multiples of {multiple}"
            raise DataError(f"an image of {size} cannot be generated: {rule}", code="wrong-shape")
        height, width = (side // expander.downscale for side in image_size)
        shape = (len(caption), flow_processor.latent_channels, height, width)
        x_1 = torch.randn(shape, generator=generator, device=compressor.latent_rms.device)
        linear = LinearPath(path)
        velocity = linear.velocity_field(self._guided(caption, text_encoder, flow_processor))
        image = expander(to_own_scale(sampler(velocity, linear.start(x_1), linear), compressor))
        return image.clamp(-1, 1)

    def _guided(
        self, caption: list[str], text_encoder: nn.Module, flow_processor: FlowModule
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided prediction as a function of x and t."""
        import torch

        guided = self.guidance != 1.0
        captions = [*caption, *[self.negative_prompt] * len(caption)] if guided else caption
        tokens, mask = text_encoder(captions)

        def prediction(x: Tensor, t: Tensor) -> Tensor:
            both = torch.cat([x, x]) if guided else x
            v = flow_processor(both, t.expand(len(both)), tokens, mask)
            if not guided:
                return v
            conditional, unconditional = v.chunk(2)
            return torch.lerp(unconditional, conditional, self.guidance)

        return prediction
