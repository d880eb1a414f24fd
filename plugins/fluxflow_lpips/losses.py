"""The component `lpips`; torch and the network are imported only when it is computed."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor

#: Converts a state dict in torch's own format, which can contain code, to safetensors.
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{path}', weights_only=True), '{stem}.safetensors')\""
)


def _safetensors(_: Any, attribute: Attribute[str], path: str) -> None:
    if PurePath(path).suffix != ".safetensors":
        command = CONVERT.format(path=path, stem=PurePath(path).with_suffix("") if PurePath(path).name else "weights")
        raise ValueError(f"{attribute.name} is `{path}`, but only .safetensors is read: convert it with {command}")


def _without_weights(lpips: Lpips, _: Attribute[bool], random: bool) -> None:
    if random and lpips.weights is not None:
        raise ValueError("random is true, but `weights` names a file: remove one of the two")


@frozen
class Lpips:
    """LPIPS, learned perceptual image patch similarity: sum over layers of mean over positions of w (f_p - f_t)^2.

    p, t: [B, 3, H, W] in [-1, 1]; f: a layer's features of a frozen classifier, scaled to unit length at each position;
    w >= 0: the weights of its channels, learned from human judgments; the mean over samples (Zhang et al.,
    "The unreasonable effectiveness of deep features as a perceptual metric", 2018; package `lpips`, version 0.1).

    The weights of the classifier are torchvision's, read from the folder TORCH_HOME/hub/checkpoints. Nothing is ever
    downloaded: a run without the file ends before training starts, with the command that fetches it.

    The network belongs to the loss. It is not a model of the recipe: no update trains it and no checkpoint contains it.
    It is built at the first call, when shapes are checked, and shared by all losses of a process with the same
    options. The target's features are computed here without gradient, once per batch. They are not a value of the
    graph, since such a value would have a network of its own, whose options would have to match those of the loss.
    """

    default_weight: ClassVar[float] = 0.1

    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    """Classifier: VGG-16, AlexNet or SqueezeNet 1.1, for images of at least 16, 31 or 17 pixels per side."""
    weights: str | None = field(default=None, validator=validators.optional(_safetensors))
    """Other weights of the classifier: a .safetensors file with torchvision's names (`features.0.weight` ...)."""
    random: bool = field(default=False, validator=_without_weights)
    """Use random weights, always the same; for tests that have no files."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the distance of the reconstruction from the image; raises WeightsError if a file is missing."""
        from .network import build_network

        distance: Tensor = build_network(self.net, self.weights, self.random, image.device)(reconstruction, image)
        return distance

    def ready(self) -> None:
        """Find the file of the classifier's weights, unless they are random; raises WeightsError if it is missing."""
        from .network import find_weights

        if not self.random:
            find_weights(self.net, self.weights)
