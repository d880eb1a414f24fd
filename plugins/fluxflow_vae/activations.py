"""Nonlinearities of the autoencoder, among them cubic Bezier curves whose shape is learned."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["silu", "gelu", "relu", "leaky_relu", "bezier", "bezier_channel"]

#: The layer in front of `Bezier` starts with weights N(0, gain^2 / inputs). With gain g for t and this gain for the
#: control points, gain^2 E sum b_k(sigmoid(g n))^2 is one, where b_k weights point k and n ~ N(0, 1): the variance of
#: a signal is preserved.
POINTS_GAIN = 1.7
#: Half of the natural gain: gradients are amplified on their way through t, but not through the control points.
T_GAIN = 0.75


def bezier(t: Tensor, p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """B(s) = (1-s)^3 p0 + 3 (1-s)^2 s p1 + 3 (1-s) s^2 p2 + s^3 p3 at s = sigmoid(t).

    By repeated interpolation (de Casteljau), which is exact at both ends: p0 at s = 0, p3 at s = 1.
    """
    s = t.sigmoid()
    q0, q1, q2 = torch.lerp(p0, p1, s), torch.lerp(p1, p2, s), torch.lerp(p2, p3, s)
    return torch.lerp(torch.lerp(q0, q1, s), torch.lerp(q1, q2, s), s)


class Bezier(nn.Module):
    """y = B(sigmoid(t); p0, p1, p2, p3): a curve whose position and control points come from the layer in front.

    B(s) = (1-s)^3 p0 + 3 (1-s)^2 s p1 + 3 (1-s) s^2 p2 + s^3 p3, a cubic Bezier curve. x: [B, 5 C, H, W] with
    C channels of t, then C each of p0, p1, p2, p3; y: [B, C, H, W]. y tends to p0 for t -> -inf and to p3 for
    t -> +inf.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the point of each curve."""
        return bezier(*x.chunk(5, dim=1))


class ChannelBezier(nn.Module):
    """y = B(sigmoid(x); p0, p1, p2, p3): the curve of `Bezier` with four trained control points per channel.

    x, y: [B, C, H, W]. It starts as 2 tanh(x / 2), whose control points -2, -2/3, 2/3, 2 are equidistant: its slope
    is one at zero, and its values stay between p0 and p3.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.linspace(-2.0, 2.0, 4).view(4, 1, 1, 1)
        self.points = nn.Parameter(line.repeat(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the point of each channel's curve."""
        p0, p1, p2, p3 = self.points.unbind(0)
        # The same curve as a polynomial in s: control points are not expanded to every position.
        terms = p0, 3 * (p1 - p0), 3 * (p2 - 2 * p1 + p0), p3 - 3 * p2 + 3 * p1 - p0
        level, first, second, third = (term.to(x.dtype) for term in terms)
        s = x.sigmoid()
        return level + s * (first + s * (second + s * third))


def expansion(name: Activation) -> int:
    """The number of input channels that an activation needs for each output channel."""
    return 5 if name == "bezier" else 1


def build_activation(name: Activation, width: int) -> nn.Module:
    """A new activation from `expansion(name) * width` channels to `width`."""
    if name == "bezier":
        return Bezier()
    if name == "bezier_channel":
        return ChannelBezier(width)
    if name == "silu":
        return nn.SiLU()
    if name == "gelu":
        return nn.GELU()
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(0.2)


def build_same_width_activation(name: Activation, width: int) -> nn.Module:
    """A new activation from `width` channels to `width`; for `bezier` a 1x1 convolution supplies its five inputs."""
    if name != "bezier":
        return build_activation(name, width)
    return nn.Sequential(initialize_for(nn.Conv2d(width, 5 * width, 1), name), Bezier())


def initialize_for(layer: nn.Conv2d | nn.ConvTranspose2d, name: Activation, fan_in: int | None = None) -> nn.Module:
    """Initialize the layer in front of an activation; only `bezier` needs more than torch's own initialization.

    `fan_in` is the number of weights that contribute to one output, if that is not the whole kernel.
    """
    if name == "bezier" and not layer.weight.is_meta:  # there torch takes long to fill nothing
        inputs = layer.in_channels * math.prod(layer.kernel_size) if fan_in is None else fan_in
        gains = torch.tensor([T_GAIN, *[POINTS_GAIN] * 4]).repeat_interleave(layer.out_channels // 5)
        outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        with torch.no_grad():
            nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
            layer.weight.transpose(0, outputs).mul_(gains.view(-1, 1, 1, 1))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer
