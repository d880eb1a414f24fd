"""Pictures drawn from captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fluxflow_flow.contracts import CompressorModule, ExpanderModule, FlowModule


def check_size(image_size: tuple[int, int], multiple: int) -> None:
    """Refuse sides that are no whole number of latent patches; raises DataError."""
    height, width = image_size
    if height % multiple or width % multiple or height <= 0 or width <= 0:
        told = f"a picture of {width} x {height} pixels cannot be drawn"
        raise DataError(f"{told}: its sides are multiples of {multiple}")


@frozen
class GeneratedImage:
    """Pictures of the captions: the flow integrated from noise, then decoded; [B, 3, H, W] in [-1, 1].

    Classifier-free guidance (Ho and Salimans, 2022): v = v_u + guidance (v_c - v_u), with v_u the velocity
    for the empty text; both halves are computed in one batch.
    """

    guidance: float = field(default=3.0, validator=validators.ge(0))
    """1 follows the caption as it was learned, more exaggerates it."""
    negative_prompt: str = ""
    """What takes the place of the empty text in v_u."""

    def __call__(
        self,
        caption: list[str],
        image_size: tuple[int, int],
        text_encoder: nn.Module,
        flow_processor: FlowModule,
        compressor: CompressorModule,
        expander: ExpanderModule,
        sampler: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Draw one picture for each caption."""
        import torch

        check_size(image_size, expander.downscale * flow_processor.patch)
        rms = compressor.latent_rms
        height, width = (side // expander.downscale for side in image_size)
        shape = (len(caption), flow_processor.latent_channels, height, width)
        x_1 = torch.randn(shape, generator=generator, device=rms.device)
        velocity = self._velocity(caption, text_encoder, flow_processor)
        image = expander(sampler(velocity, x_1) * rms)
        return image.clamp(-1, 1)

    def _velocity(
        self, caption: list[str], text_encoder: nn.Module, flow_processor: FlowModule
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided velocity as a function of x and t."""
        import torch

        guided = self.guidance != 1.0
        texts = [*caption, *[self.negative_prompt] * len(caption)] if guided else caption
        tokens, mask = text_encoder(texts)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            both = torch.cat([x, x]) if guided else x
            v = flow_processor(both, t.expand(len(both)), tokens, mask)
            if not guided:
                return v
            conditional, unconditional = v.chunk(2)
            return torch.lerp(unconditional, conditional, self.guidance)

        return velocity
