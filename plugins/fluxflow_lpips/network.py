"""The network of LPIPS: where its weights are, and the distance that it gives."""

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

#: The least side of an image, in pixels, of which the last layer still has a place.
SMALLEST: Mapping[str, int] = {"vgg": 16, "alex": 31, "squeeze": 17}

#: Of a random backbone, which is the same in every run.
SEED = 0


class WeightsError(FluxflowError):
    """The backbone's weights are not there, or are not its own."""


class Distance(nn.Module):
    """Sum over layers of mean over places of w (f_p - f_t)^2, the mean over samples; frozen.

    [B, 3, H, W] twice, in [-1, 1], to 0-d. Gradient reaches p alone: t is seen without a graph.
    """

    def __init__(self, net: str, perceptual: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.perceptual: Any = perceptual
        self.eval().requires_grad_(False)

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        """Give the distance."""
        least = SMALLEST[self.net]
        if min(p.shape[-2:]) < least:
            raise ValueError(f"lpips with {self.net} needs images of {least} x {least} pixels or more")
        with torch.no_grad():
            target = list(self.features(t))
        layers = zip(self.features(p), target, self.perceptual.lins, strict=True)
        distances = [lin((a - b).square()).mean() for a, b, lin in layers]
        return torch.stack(distances).sum()

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """Each layer's features, every place scaled to unit length.

        The package takes the root of a sum of squares here, whose derivative is no number where no feature of a
        place fires. The ReLU before it hides that, but not from a search for what is not finite; the norm's is zero.
        """
        for feature in self.perceptual.net(self.perceptual.scaling_layer(x)):
            yield feature / (torch.linalg.vector_norm(feature, dim=1, keepdim=True) + 1e-10)


def find(net: str, weights: str | None) -> Path:
    """The file of the backbone's weights: the user's, or torchvision's in its own folder; raises WeightsError."""
    if weights is not None:
        path = Path(os.path.abspath(os.path.expanduser(weights)))
        if not path.is_file():
            raise WeightsError(f"`weights` of lpips: there is no file {path}")
        return path
    function, _ = BACKBONES[net]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(_published(net).url).name
    if not path.is_file():
        command = f"python -c \"import torchvision; torchvision.models.{function}(weights='IMAGENET1K_V1')\""
        raise WeightsError(
            f"lpips with {net} needs {path.name}, which is not in {path.parent} (TORCH_HOME sets the folder); "
            f"where there is a network, fetch it with: {command}"
        )
    return path


@lru_cache(maxsize=8)
def network(net: str, path: Path | None, device: torch.device) -> Distance:
    """The network on a device, built once; `path` is the file of its backbone, None draws a random one."""
    if device.type == "cpu":
        return _built(net, path)
    return copy.deepcopy(network(net, path, torch.device("cpu"))).to(device)


def _built(net: str, path: Path | None) -> Distance:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # The package asks torchvision in a way that is deprecated.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchvision\.models\._utils")
        torch.default_generator.manual_seed(SEED)
        perceptual = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    if path is not None:
        _load(net, perceptual.net, path)
    return Distance(net, perceptual)


def _load(net: str, backbone: nn.Module, path: Path) -> None:
    """Fill the backbone, whose names begin with a slice (`slice1.0.weight`) and not with `features`."""
    names = {key: "features." + key.partition(".")[2] for key in backbone.state_dict()}
    function, _ = BACKBONES[net]
    try:
        held = _read(net, path, set(names.values()))
        missing = sorted(set(names.values()) - set(held))
        if not missing:
            backbone.load_state_dict({key: held[name] for key, name in names.items()})
    except Exception as error:  # a file can be damaged in more ways than its readers count
        reason = [type(error).__name__, *str(error).strip().splitlines()][-1].strip()
        raise WeightsError(f"{path} cannot be read as torchvision's {function}: {reason}") from None
    if missing:
        message = f"{path} holds no `{missing[0]}`; lpips with {net} reads a state dict of torchvision's {function}"
        raise WeightsError(message)


def _read(net: str, path: Path, names: Collection[str]) -> Mapping[str, Tensor]:
    """The tensors of these names that the user's file, or torchvision's, holds."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    # The file is there, so nothing is downloaded.
    state: Mapping[str, Tensor] = _published(net).get_state_dict(map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name in names}


def _published(net: str) -> Any:
    """What torchvision knows of the weights: their address, and how to read them."""
    return torchvision.models.get_weight(f"{BACKBONES[net][1]}.IMAGENET1K_V1")
