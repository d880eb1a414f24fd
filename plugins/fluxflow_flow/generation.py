"""Images generated from captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fluxflow_registry import NoisePath, VelocityField

    from .contracts import CompressorModule, ExpanderModule, FlowModule
    from .paths import Path


def check_size(image_size: tuple[int, int], multiple: int) -> None:
    """Require sides that are multiples of a latent patch; raises DataError."""
    height, width = image_size
    if height % multiple or width % multiple or height <= 0 or width <= 0:
        size, rule = f"{width} x {height} pixels", f"its sides must be multiples of {multiple}"
        raise DataError(f"an image of {size} cannot be generated: {rule}", code="wrong-shape")


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
        """Generate one image for each caption."""
        import torch

        from .paths import LinearPath
        from .scale import to_own_scale

        check_size(image_size, expander.downscale * flow_processor.patch)
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
