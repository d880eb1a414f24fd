"""The network of LPIPS: where its weights are, and the distance that it computes."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import lpips
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor, nn

from fluxflow_registry import FluxflowError

#: For each net: torchvision's function and its weights.
BACKBONES: Mapping[str, tuple[str, str]] = {
    "vgg": ("vgg16", "VGG16_Weights"),
    "alex": ("alexnet", "AlexNet_Weights"),
    "squeeze": ("squeezenet1_1", "SqueezeNet1_1_Weights"),
}

#: The smallest side of an image, in pixels, for which the last layer still has a position.
SMALLEST: Mapping[str, int] = {"vgg": 16, "alex": 31, "squeeze": 17}

#: Seed of a random backbone, which is the same in every run.
SEED = 0


class WeightsError(FluxflowError):
    """The backbone's weights are missing, or they are those of another network."""


class Distance(nn.Module):
    """Sum over layers of mean over positions of w (f_p - f_t)^2, the mean over samples; frozen.

    [B, 3, H, W] twice, in [-1, 1], to 0-d. Only p receives gradient.
    """

    def __init__(self, net: str, perceptual: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.perceptual: Any = perceptual
        self.eval().requires_grad_(False)

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        """Return the distance."""
        smallest = SMALLEST[self.net]
        if min(p.shape[-2:]) < smallest:
            raise ValueError(f"lpips with net `{self.net}` needs images of at least {smallest} x {smallest} pixels")
        with torch.no_grad():
            target = list(self.features(t))
        layers = zip(self.features(p), target, self.perceptual.lins, strict=True)
        distances = [lin((a - b).square()).mean() for a, b, lin in layers]
        return torch.stack(distances).sum()

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """Each layer's features, scaled to unit length at every position.

        The package computes the square root of a sum of squares here, whose derivative is NaN where all features of a
        position are zero. The ReLU before it masks that NaN in the result, but not for anomaly detection. The
        derivative of the norm is zero there.
        """
        for feature in self.perceptual.net(self.perceptual.scaling_layer(x)):
            yield feature / (torch.linalg.vector_norm(feature, dim=1, keepdim=True) + 1e-10)


def find_weights(net: str, weights: str | None) -> Path:
    """The file of the backbone's weights: the user's, or torchvision's in its own folder; raises WeightsError."""
    if weights is not None:
        path = Path(os.path.abspath(os.path.expanduser(weights)))
        if not path.is_file():
            message = f"file `{path}` does not exist: it is the option `weights` of lpips"
            raise WeightsError(message, code="missing-file", subject=str(path))
        return path
    function, _ = BACKBONES[net]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(_published(net).url).name
    if not path.is_file():
        message = f"lpips with net `{net}` needs the file {path.name}, which is not in {path.parent}"
        hint = "fetch the file where there is a network (training downloads nothing), or set TORCH_HOME"
        command = f"python -c \"import torchvision; torchvision.models.{function}(weights='IMAGENET1K_V1')\""
        notes = (("hint", hint), ("command", command))
        raise WeightsError(message, None, notes, code="missing-weights", subject=path.name)
    return path


@lru_cache(maxsize=8)
def build_network(net: str, weights: str | None, random: bool, device: torch.device) -> Distance:
    """The network on a device, built once, with the weights that `find_weights` finds or with random ones."""
    if device.type == "cpu":
        return _build_on_cpu(net, None if random else find_weights(net, weights))
    return copy.deepcopy(build_network(net, weights, random, torch.device("cpu"))).to(device)


def _build_on_cpu(net: str, path: Path | None) -> Distance:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # The package calls torchvision with a deprecated argument.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchvision\.models\._utils")
        torch.default_generator.manual_seed(SEED)
        perceptual = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    if path is not None:
        _load(net, perceptual.net, path)
    return Distance(net, perceptual)


def _load(net: str, backbone: nn.Module, path: Path) -> None:
    """Load the backbone's weights; its names start with a slice (`slice1.0.weight`) in place of `features`."""
    names = {key: "features." + key.partition(".")[2] for key in backbone.state_dict()}
    function, _ = BACKBONES[net]
    try:
        tensors = _read(net, path, set(names.values()))
        missing = sorted(set(names.values()) - set(tensors))
        if not missing:
            backbone.load_state_dict({key: tensors[name] for key, name in names.items()})
    except Exception as error:  # a file can be damaged in more ways than its readers document
        cause = [type(error).__name__, *str(error).strip().splitlines()][-1].strip()
        message = f"file `{path}` cannot be read as weights of torchvision's {function}"
        raise WeightsError(message, None, [("cause", cause)], code="unreadable-file", subject=str(path)) from None
    if missing:
        message = f"file `{path}` has no tensor `{missing[0]}`: lpips needs a state dict of torchvision's {function}"
        raise WeightsError(message, code="missing-weights", subject=missing[0])


def _read(net: str, path: Path, names: Collection[str]) -> Mapping[str, Tensor]:
    """The tensors of these names in the user's file, or in torchvision's."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    # The file exists, so nothing is downloaded.
    state: Mapping[str, Tensor] = _published(net).get_state_dict(map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name in names}


def _published(net: str) -> Any:
    """Torchvision's entry of the weights: their address, and how they are read."""
    return torchvision.models.get_weight(f"{BACKBONES[net][1]}.IMAGENET1K_V1")
