"""The loss `lpips`; torch and the network are imported only when it is computed."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor

#: Makes a safetensors file of a state dict in torch's own format, which can hold code.
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{path}', weights_only=True), '{stem}.safetensors')\""
)


def _safetensors(_: Any, attribute: Attribute[str], path: str) -> None:
    """Hold that the file cannot hold code."""
    if PurePath(path).suffix != ".safetensors":
        command = CONVERT.format(path=path, stem=PurePath(path).with_suffix("") if PurePath(path).name else "weights")
        raise ValueError(f"{attribute.name} is `{path}`: only .safetensors is read; convert it once with: {command}")


def _no_weights(lpips: Lpips, _: Attribute[bool], value: bool) -> None:
    """Hold that the backbone is either read or drawn."""
    if value and lpips.weights is not None:
        raise ValueError("random is true, but weights are given: a backbone is either drawn or read")


@frozen
class Lpips:
    """LPIPS, learned perceptual image patch similarity: sum over layers of mean over places of w (f_p - f_t)^2.

    p, t: [B, 3, H, W] in [-1, 1]; f: a layer's features of a frozen classifier, each place scaled to unit
    length; w >= 0: the weights of its channels, learned from human judgments; the mean over samples (Zhang et al.,
    "The unreasonable effectiveness of deep features as a perceptual metric", 2018; package `lpips`, version 0.1).

    The weights of the classifier are those of torchvision, taken from the folder TORCH_HOME/hub/checkpoints.
    Nothing is ever downloaded: a run without the file ends before it begins, with the command that fetches it.

    The network is the loss's own. It is no model of the recipe: nothing trains it and no checkpoint holds it. It is
    built at the first call, when shapes are proven, and is shared by all losses of a process that name the same one.
    The target's features are computed without gradient here, once a batch, and are no value of the graph: a value
    would have a network of its own, whose options had to agree with those of the loss.
    """

    default_weight: ClassVar[float] = 0.1

    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    """Classifier: VGG-16, AlexNet or SqueezeNet 1.1; images have at least 16, 31 or 17 pixels a side."""
    weights: str | None = field(default=None, validator=validators.optional(_safetensors))
    """Other weights of the classifier: a .safetensors file with torchvision's names (`features.0.weight` ...)."""
    random: bool = field(default=False, validator=_no_weights)
    """Draw the classifier's weights, always the same; for tests, where nothing is fetched."""

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Give the distance of the reconstruction from the image; raises WeightsError where a file is missing."""
        from fluxflow_lpips.network import network

        distance: Tensor = network(self.net, self.ready(), image.device)(reconstruction, image)
        return distance

    def ready(self) -> Path | None:
        """The file of the classifier's weights, None where they are drawn; raises WeightsError where it is missing."""
        from fluxflow_lpips.network import find

        return None if self.random else find(self.net, self.weights)
