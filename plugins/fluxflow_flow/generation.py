"""Pictures drawn from captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fluxflow_flow.contracts import CompressorModule, ExpanderModule, FlowModule, WalkedPath
    from fluxflow_flow.paths import Path


def check_size(image_size: tuple[int, int], multiple: int) -> None:
    """Refuse sides that are no whole number of latent patches; raises DataError."""
    height, width = image_size
    if height % multiple or width % multiple or height <= 0 or width <= 0:
        told = f"a picture of {width} x {height} pixels cannot be drawn"
        raise DataError(f"{told}: its sides are multiples of {multiple}")


@frozen
class GeneratedImage:
    """Pictures of the captions: the path walked back from noise, then decoded; [B, 3, H, W] in [-1, 1].

    Classifier-free guidance (Ho and Salimans, 2022): v = v_u + guidance (v_c - v_u), with v_u the prediction
    for the empty text; both halves are computed in one batch. Whatever the network predicts becomes the velocity of
    a straight path (`straight.StraightPath`), which is what samplers integrate. At t = 1 the latent is N(0, 1).
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
        path: Path,
        sampler: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, WalkedPath], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Draw one picture for each caption."""
        import torch

        from fluxflow_flow.scale import decodable
        from fluxflow_flow.straight import StraightPath

        check_size(image_size, expander.downscale * flow_processor.patch)
        height, width = (side // expander.downscale for side in image_size)
        shape = (len(caption), flow_processor.latent_channels, height, width)
        x_1 = torch.randn(shape, generator=generator, device=compressor.latent_rms.device)
        straight = StraightPath(path)
        velocity = straight.field(self._prediction(caption, text_encoder, flow_processor))
        image = expander(decodable(sampler(velocity, straight.start(x_1), straight), compressor))
        return image.clamp(-1, 1)

    def _prediction(
        self, caption: list[str], text_encoder: nn.Module, flow_processor: FlowModule
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided prediction as a function of x and t."""
        import torch

        guided = self.guidance != 1.0
        texts = [*caption, *[self.negative_prompt] * len(caption)] if guided else caption
        tokens, mask = text_encoder(texts)

        def prediction(x: Tensor, t: Tensor) -> Tensor:
            both = torch.cat([x, x]) if guided else x
            v = flow_processor(both, t.expand(len(both)), tokens, mask)
            if not guided:
                return v
            conditional, unconditional = v.chunk(2)
            return torch.lerp(unconditional, conditional, self.guidance)

        return prediction
