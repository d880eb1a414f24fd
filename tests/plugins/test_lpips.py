"""LPIPS: the distance of the package `lpips`, a frozen network, a gradient for the reconstruction only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from fluxflow_lpips.losses import Lpips
from fluxflow_lpips.network import BACKBONES, SMALLEST, Distance, WeightsError, build_network
from fluxflow_registry import Problem

CPU = torch.device("cpu")
NETS = pytest.mark.parametrize("net", ["squeeze", "alex", "vgg"])


def images(seed: int = 0, batch: int = 2, side: int = 32) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def package(net: str) -> Any:
    """The package's own network, with the weights of ours."""
    with warnings.catch_warnings(), torch.device("meta"):  # random weights of its own would take a second
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    theirs.load_state_dict(build_network(net, None, True, CPU).perceptual.state_dict(), assign=True)
    return theirs


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TORCH_HOME, and an error for every attempt to use the network."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr("socket.socket.connect", fail)
    return tmp_path / "torch"


@pytest.fixture
def fresh() -> Iterator[None]:
    """An empty cache of networks before and after."""
    build_network.cache_clear()
    yield
    build_network.cache_clear()


def torchvision_state(net: str = "squeeze") -> dict[str, Tensor]:
    with torch.device("meta"):
        state = getattr(torchvision.models, BACKBONES[net][0])(weights=None).state_dict()
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(each.shape, generator=generator) / each[0].numel() ** 0.5
        for name, each in state.items()
        if name.startswith("features.")
    }


@NETS
def test_distance_and_gradient_agree_with_the_package(net: str) -> None:
    t, p = images(0), images(1).requires_grad_()
    q = p.detach().clone().requires_grad_()
    theirs = package(net)(q, t).mean()

    ours = Lpips(net=net, random=True)(p, t)  # type: ignore[arg-type]
    (expected,) = torch.autograd.grad(theirs, q)
    (gradient,) = torch.autograd.grad(ours, p)

    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)
    assert gradient.abs().max() > 0


def test_it_is_zero_for_the_image_itself_and_grows_with_noise() -> None:
    t = images(0)
    loss = Lpips(net="squeeze", random=True)

    found = [float(loss(t + strength * images(1), t)) for strength in (0.0, 0.05, 0.2, 0.5)]

    assert found[0] == 0
    assert found == sorted(set(found))


def test_a_step_along_its_gradient_lowers_the_distance() -> None:
    loss = Lpips(net="squeeze", random=True)
    t, p = images(0), (0.5 * images(1)).requires_grad_()

    (gradient,) = torch.autograd.grad(loss(p, t), p)
    improved = (p - 1e-2 * gradient / gradient.abs().max()).detach()

    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()
    assert float(loss(improved, t)) < float(loss(p, t).detach())


def test_the_features_of_the_target_are_computed_once_and_without_gradient() -> None:
    seen: list[bool] = []
    handle = build_network("squeeze", None, True, CPU).perceptual.net.slice7.register_forward_hook(
        lambda _, __, out: seen.append(out.requires_grad)
    )
    t, p = images(0).requires_grad_(), images(1).requires_grad_()

    loss = Lpips(net="squeeze", random=True)(p, t)
    handle.remove()
    gradients = torch.autograd.grad(loss, [p, t], allow_unused=True)

    assert sorted(seen) == [False, True]
    assert gradients[0] is not None
    assert gradients[1] is None


FLAT = torch.full((1, 3, 32, 32), 0.25)
#: The image that the package scales to zero, for which all features of a random backbone without biases are zero.
ZERO = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1).expand(1, 3, 32, 32)


@NETS
@pytest.mark.parametrize(
    ("p", "t"),
    [(images(0), images(0)), (FLAT, FLAT), (ZERO, images(0, 1)), (images(0).bfloat16().float(), images(1))],
    ids=["the image itself", "flat", "no features", "rounded"],
)
def test_its_gradient_is_finite(net: str, p: Tensor, t: Tensor) -> None:
    p = p.clone().requires_grad_()

    loss = Lpips(net=net, random=True)(p, t)  # type: ignore[arg-type]
    with torch.autograd.set_detect_anomaly(True):  # no intermediate gradient is NaN either
        (gradient,) = torch.autograd.grad(loss, p)

    assert loss.isfinite()
    assert gradient.isfinite().all()


@NETS
def test_the_network_is_frozen_and_in_evaluation_mode(net: str) -> None:
    network = build_network(net, None, True, CPU)

    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert all((lin.model[-1].weight >= 0).all() for lin in network.perceptual.lins)  # learned from judgments


def test_the_network_is_built_once_without_output_and_without_global_randomness(
    fresh: None, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)

    torch.manual_seed(3)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        Lpips(net="squeeze", random=True)(images(0), images(1))
    first = build_network("squeeze", None, True, CPU)
    Lpips(net="squeeze", random=True)(images(0), images(1))

    assert torch.equal(torch.rand(4), expected)
    assert [str(each.message) for each in warned] == []
    assert capsys.readouterr() == ("", "")
    assert build_network("squeeze", None, True, CPU) is first
    assert build_network.cache_info().misses == 1


def test_a_random_backbone_is_the_same_in_every_process(fresh: None) -> None:
    first = Lpips(net="squeeze", random=True)(images(0), images(1))
    build_network.cache_clear()
    torch.manual_seed(99)

    assert torch.equal(Lpips(net="squeeze", random=True)(images(0), images(1)), first)


def test_the_loss_works_on_the_meta_device(fresh: None) -> None:
    p = torch.empty(2, 3, 32, 32, device="meta", requires_grad=True)

    loss = Lpips(net="squeeze", random=True)(p, torch.empty(2, 3, 32, 32, device="meta"))

    assert (loss.device.type, loss.shape, loss.requires_grad) == ("meta", (), True)
    assert next(build_network("squeeze", None, True, CPU).parameters()).device == CPU
    assert build_network.cache_info().misses == 2


@NETS
def test_images_that_are_too_small_are_rejected(net: str) -> None:
    least = SMALLEST[net]
    loss = Lpips(net=net, random=True)  # type: ignore[arg-type]

    assert loss(images(0, side=least), images(1, side=least)).isfinite()
    with pytest.raises(ValueError, match=f"lpips with net `{net}` needs images of at least {least} x {least} pixels"):
        loss(images(0, side=least - 1), images(1, side=least - 1))


@pytest.mark.parametrize(
    ("net", "file", "function"),
    [
        ("vgg", "vgg16-397923af.pth", "vgg16"),
        ("alex", "alexnet-owt-7be5be79.pth", "alexnet"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth", "squeezenet1_1"),
    ],
)
def test_missing_weights_are_reported_with_their_folder_and_the_command_and_not_fetched(
    net: str, file: str, function: str, empty_home: Path
) -> None:
    with pytest.raises(WeightsError) as caught:
        Lpips(net=net)(images(0), images(1))  # type: ignore[arg-type]

    (problem,) = caught.value.problems
    folder = f"{empty_home}/hub/checkpoints"
    assert problem.message == f"lpips with net `{net}` needs the file {file}, which is not in {folder}"
    assert (problem.code, problem.subject) == ("missing-weights", file)
    assert problem.notes == (
        ("hint", "fetch the file where there is a network (training downloads nothing), or set TORCH_HOME"),
        ("command", f"python -c \"import torchvision; torchvision.models.{function}(weights='IMAGENET1K_V1')\""),
    )
    assert not empty_home.exists()


def test_weights_in_the_folder_of_torchvision_are_used(fresh: None, empty_home: Path) -> None:
    state = torchvision_state()
    place = empty_home / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    place.parent.mkdir(parents=True)
    torch.save(state, place)

    loss = Lpips(net="squeeze")(images(0), images(1))
    place.unlink()  # it is read once
    Lpips(net="squeeze")(images(0), images(1))

    network = build_network("squeeze", None, False, CPU)
    assert torch.equal(network.perceptual.net.slice1[0].weight, state["features.0.weight"])
    assert float(loss) != float(Lpips(net="squeeze", random=True)(images(0), images(1)))


@NETS
def test_weights_of_a_file_are_read_by_the_names_of_torchvision(
    net: str, fresh: None, empty_home: Path, tmp_path: Path
) -> None:
    state = torchvision_state(net)
    save_file({**state, "classifier.0.bias": torch.zeros(2)}, tmp_path / "mine.safetensors")

    Lpips(net=net, weights=str(tmp_path / "mine.safetensors"))(images(0), images(1))  # type: ignore[arg-type]

    loaded = build_network(net, str(tmp_path / "mine.safetensors"), False, CPU).perceptual.net.state_dict()
    for key, tensor in loaded.items():
        assert torch.equal(tensor, state["features." + key.partition(".")[2]]), key


def test_a_file_that_does_not_fit_is_reported(fresh: None, tmp_path: Path) -> None:
    state = torchvision_state()
    path = tmp_path / "mine.safetensors"
    loss = Lpips(net="squeeze", weights=str(path))

    def problem() -> Problem:
        with pytest.raises(WeightsError) as caught:
            loss(images(0), images(1))
        return caught.value.problems[0]

    assert problem().message == f"file `{path}` does not exist: it is the option `weights` of lpips"
    assert problem().code == "missing-file"
    path.write_bytes(b"not this")
    assert problem().message == f"file `{path}` cannot be read as weights of torchvision's squeezenet1_1"
    assert (problem().code, problem().subject) == ("unreadable-file", str(path))
    save_file({k: v for k, v in state.items() if k != "features.3.squeeze.bias"}, path)
    assert problem().message == (
        f"file `{path}` has no tensor `features.3.squeeze.bias`: "
        "lpips needs a state dict of torchvision's squeezenet1_1"
    )
    assert (problem().code, problem().subject) == ("missing-weights", "features.3.squeeze.bias")
    save_file({**state, "features.0.bias": torch.zeros(3)}, path)
    assert problem().notes[0][1].startswith("size mismatch for slice1.0.bias")


def test_a_damaged_file_of_torchvision_is_reported(fresh: None, empty_home: Path) -> None:
    place = empty_home / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half a download")

    with pytest.raises(WeightsError, match=r"b8a52dc0\.pth` cannot be read as weights of torchvision's squeezenet1_1"):
        Lpips(net="squeeze")(images(0), images(1))


def test_a_file_that_could_contain_code_is_rejected_with_the_command_that_converts_it() -> None:
    with pytest.raises(ValueError, match=r"weights is `nets/vgg\.pth`, but only \.safetensors is read") as caught:
        Lpips(weights="nets/vgg.pth")

    command = str(caught.value).partition("convert it with ")[2]
    assert command == (
        'python -c "import torch; from safetensors.torch import save_file; '
        "save_file(torch.load('nets/vgg.pth', weights_only=True), 'nets/vgg.safetensors')\""
    )


def test_random_weights_and_a_file_of_weights_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="random is true, but `weights` names a file: remove one of the two"):
        Lpips(weights="mine.safetensors", random=True)


def test_the_default_network_is_vgg_with_a_weight_of_a_tenth() -> None:
    assert isinstance(build_network("squeeze", None, True, CPU), Distance)
    assert Lpips.default_weight == 0.1
    assert Lpips().net == "vgg"
