"""How alike a reconstruction and its image are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, frozen, validators

from fluxflow_registry import higher_is_better

if TYPE_CHECKING:
    from torch import Tensor


@higher_is_better
def psnr(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(2^2 / mse) in dB for images in [-1, 1], the mean over images."""
    error = (reconstruction.clamp(-1, 1) - image).square().flatten(1).mean(dim=1)
    return (10 * (4 / error.clamp(min=1e-12)).log10()).mean()


@higher_is_better
def sharpness(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Energy of the gradients of the reconstruction over that of the image: 1 is as sharp as the original.

    E|dx p|^2 + E|dy p|^2 over the same for t; blur lowers it.
    """

    def energy(x: Tensor) -> Tensor:
        return x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()

    return energy(reconstruction) / energy(image)


def _odd(_: Any, attribute: Attribute[int], window: int) -> None:
    """Hold that the window has a middle."""
    if window < 3 or window % 2 == 0:
        raise ValueError(f"{attribute.name} is {window}: it must be odd, and 3 at least")


@higher_is_better
@frozen
class Ssim:
    """Structural similarity in a Gaussian window, at most 1, the mean over images (Wang et al., 2004).

    SSIM = (2 m_p m_t + C1)(2 s_pt + C2) / ((m_p^2 + m_t^2 + C1)(s_p^2 + s_t^2 + C2)), C1 = 0.02^2, C2 = 0.06^2
    for images [B, C, H, W] in [-1, 1] (the reconstruction is clamped), over the windows that lie inside the image.
    The loss of this name is 1 - SSIM.
    """

    window: int = field(default=11, validator=_odd)
    """Side of the window in pixels, odd; shrunk to the largest that fits a smaller image."""
    sigma: float = field(default=1.5, validator=validators.gt(0))
    """Standard deviation of the window in pixels."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Give the mean similarity."""
        import torch
        from torch.nn.functional import conv2d

        p, t = reconstruction.clamp(-1, 1), image
        side = min(self.window, *image.shape[-2:])
        side -= 1 - side % 2
        place = torch.arange(side, device=t.device, dtype=t.dtype) - (side - 1) / 2
        bell = torch.exp(-0.5 * (place / self.sigma).square())
        bell = bell / bell.sum()
        window = torch.outer(bell, bell).expand(t.shape[1], 1, side, side)

        def mean(x: Tensor) -> Tensor:
            return conv2d(x, window, groups=x.shape[1])

        m_p, m_t = mean(p), mean(t)
        s_p, s_t, s_pt = mean(p * p) - m_p * m_p, mean(t * t) - m_t * m_t, mean(p * t) - m_p * m_t
        c1, c2 = 0.02**2, 0.06**2
        light = (2 * m_p * m_t + c1) / (m_p.square() + m_t.square() + c1)
        structure = (2 * s_pt + c2) / (s_p + s_t + c2)
        return (light * structure).mean()
