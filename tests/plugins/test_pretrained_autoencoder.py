"""The halves of a pretrained autoencoder: a tiny random one, in a folder as it is published."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxflow_pretrained.models import PretrainedCompressorBuilder, PretrainedExpanderBuilder
from fluxflow_pretrained.published import PretrainedError
from fluxflow_registry import Problem
from fluxflow_registry.engine.models.build import frozen_parameters
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.run.trained_models import load_trained_models
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..engine.conftest import StopAfter, start
from ..engine.test_resume import finals
from ..small import FLOW, PLUGINS, VAE_GAN

pytestmark = pytest.mark.skipif(find_spec("diffusers") is None, reason="the extra `diffusers` is not installed")

HALVES = [PretrainedCompressorBuilder, PretrainedExpanderBuilder]


def autoencoder(**options: Any) -> Any:
    import diffusers  # not where tests are collected: that every process does, and it takes seconds

    torch.manual_seed(0)
    plain = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "latent_channels": 2,
        "scaling_factor": 0.5,
        "shift_factor": 0.25,
    }
    return diffusers.AutoencoderKL(**{**plain, **options}).eval()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it, within a whole model's."""
    folder = tmp_path_factory.mktemp("published")
    autoencoder().save_pretrained(folder / "vae")
    return folder


def halves(published: Path, **options: Any) -> tuple[Any, Any]:
    options = {"name": str(published), "subfolder": "vae", **options}
    own = {key: value for key, value in options.items() if key not in ("scaling_factor", "shift")}
    return PretrainedCompressorBuilder(**options)(None).eval(), PretrainedExpanderBuilder(**own)(None).eval()


def image(side: int = 16) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_both_halves_agree_with_diffusers_and_have_its_scale_and_shift(published: Path) -> None:
    theirs = autoencoder()
    compressor, expander = halves(published)

    with torch.no_grad():
        expected = theirs.encode(image()).latent_dist
        mean, logvar = compressor(image())
        decoded = expander(mean)

    torch.testing.assert_close(mean, expected.mean)
    torch.testing.assert_close(logvar, expected.logvar)
    torch.testing.assert_close(decoded, theirs.decode(expected.mean).sample)
    z = (mean - compressor.latent_shift) / compressor.latent_rms
    torch.testing.assert_close(z, (expected.mean - 0.25) * 0.5)
    assert (compressor.latent_rms.shape, compressor.latent_shift.shape) == ((), ())
    assert [(half.downscale, half.latent_channels) for half in (compressor, expander)] == [(4, 2), (4, 2)]


def test_scaling_factor_shift_and_number_format_are_options(published: Path) -> None:
    compressor, _ = halves(published, scaling_factor=0.125, shift=-1.0)
    half, other = halves(published, dtype="bf16")

    assert (float(compressor.latent_rms), float(compressor.latent_shift)) == (8.0, -1.0)
    assert {p.dtype for p in (*half.parameters(), *other.parameters())} == {torch.bfloat16}
    assert half(image()).mean.dtype == other(torch.zeros(1, 2, 2, 2)).dtype == torch.float32
    assert half.latent_rms.dtype == torch.float32


def test_an_autoencoder_without_quantization_convolutions_and_shift_can_be_read(tmp_path: Path) -> None:
    theirs = autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=None)
    theirs.save_pretrained(tmp_path)

    compressor, expander = halves(tmp_path, subfolder=None)

    torch.testing.assert_close(compressor(image()).mean, theirs.encode(image()).latent_dist.mean)
    assert float(compressor.latent_shift) == 0.0
    assert expander.post_quant_conv is None


RECIPE = (VAE_GAN + FLOW).replace(
    "compressor: {type: compressor, latent_channels: 2, width: 8}",
    "compressor: {type: pretrained_compressor, name: FOLDER, subfolder: vae}",
).replace(
    "expander: {type: expander, latent_channels: 2, width: 8}",
    "expander: {type: pretrained_expander, name: FOLDER, subfolder: vae}",
)  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load([*PLUGINS, "pretrained"])


@pytest.fixture
def proven(prove: Callable[..., RecipePlan], registry: Registry) -> Callable[..., RecipePlan]:
    """A checked recipe whose autoencoder is in a folder."""

    def make(folder: Path, *settings: str) -> RecipePlan:
        checked = prove(RECIPE.replace("FOLDER", str(folder)), *settings, using=registry)
        prove_shapes(checked)
        return checked

    return make


def test_only_parts_that_an_update_trains_and_that_are_not_frozen_change(
    proven: Callable[..., RecipePlan], published: Path, tmp_path: Path
) -> None:
    only = "steps.vae_gan.updates.vae.trains=[expander]"
    frozen = "models.expander.frozen=[decoder.conv_out]"
    less = ("steps.vae_gan.updates.vae.losses.kl=false", "steps.vae_gan.updates.vae.losses.hinge_generator.detach=[]")
    recipe = proven(published, only, frozen, *less, "steps.vae_gan.epochs=1", "steps.flow.epochs=1")
    whole = start(recipe, tmp_path / "whole").run

    first = start(recipe, tmp_path / "resumed", [StopAfter("batch_ended", 3)])
    second = start(recipe, tmp_path / "resumed")

    before = load_file(published / "vae" / "diffusion_pytorch_model.safetensors")
    same = {
        key: torch.equal(tensor, before[key])
        for model in ("compressor", "expander")
        for key, tensor in whole.models[model].named_parameters()
    }
    assert frozen_parameters(whole.models["expander"]) == {"decoder.conv_out.weight", "decoder.conv_out.bias"}
    assert all(unchanged for key, unchanged in same.items() if key.startswith(("encoder", "quant", "decoder.conv_out")))
    assert not any(unchanged for key, unchanged in same.items() if key.startswith("decoder.conv_in"))
    assert first.stopped is not None
    assert finals(second.run) == finals(whole)


def test_a_run_can_be_sampled_without_the_folder_that_it_was_trained_from(
    proven: Callable[..., RecipePlan], published: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.symlink_to(published)
    recipe = proven(folder)
    stopped = start(recipe, tmp_path / "runs", [StopAfter("batch_ended", 3)]).run
    folder.unlink()

    models, _, _ = load_trained_models(recipe, stopped.folder.path, torch.device("cpu"))

    latent = torch.ones(1, 2, 4, 4)
    assert torch.equal(models["expander"](latent), stopped.models["expander"].eval()(latent))
    assert float(models["compressor"].latent_rms) == 2.0  # type: ignore[arg-type]


def test_activation_checkpointing_finds_its_blocks(proven: Callable[..., RecipePlan], published: Path) -> None:
    proven(published, "models.expander.checkpointing=true", "models.compressor.channels_last=true")


def problem_of(builder: Any, name: str | Path, **options: Any) -> Problem:
    """The problem of a builder that cannot build its model."""
    with pytest.raises(PretrainedError) as caught:
        builder(name=str(name), **options)(None)
    return caught.value.problems[0]


@pytest.mark.parametrize("builder", HALVES)
def test_missing_files_are_reported_with_the_command_that_fetches_them_and_not_fetched(
    builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", fail)

    missing = problem_of(builder, "nobody/nothing", subfolder="vae", revision="v1")

    assert missing.message == ("`nobody/nothing`, subfolder `vae`, is neither a folder nor in the Hugging Face cache")
    assert (missing.code, missing.subject) == ("missing-weights", "nobody/nothing")
    fetch = 'hf download nobody/nothing --revision v1 --include "vae/config.json" --include "vae/*.safetensors"'
    assert ("command", fetch) in missing.notes
    no_folder = problem_of(builder, tmp_path / "none")
    assert (no_folder.message, no_folder.code) == (f"folder `{tmp_path / 'none'}` does not exist", "missing-file")
    invalid = "`no name` is neither a folder nor a valid name on the Hugging Face hub"
    assert problem_of(builder, "no name").message == invalid
    no_config = problem_of(builder, tmp_path)
    assert no_config.message == f"folder `{tmp_path}` contains no config.json of an AutoencoderKL"
    assert no_config.code == "unreadable-file"


def test_files_that_do_not_fit_are_reported(published: Path, tmp_path: Path) -> None:
    config = json.loads((published / "vae" / "config.json").read_text())
    state = load_file(published / "vae" / "diffusion_pytorch_model.safetensors")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    builder = PretrainedExpanderBuilder

    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    wrong = problem_of(builder, tmp_path)
    assert wrong.message == f"the config.json in folder `{tmp_path}` describes a VQModel, not an AutoencoderKL"
    (tmp_path / "config.json").write_text(json.dumps(config))
    unsafe = problem_of(builder, tmp_path)
    assert (unsafe.message, unsafe.code) == (f"folder `{tmp_path}` contains no {file.name}", "missing-weights")
    assert unsafe.notes == (("cause", "weights in torch's own format can contain code, so they are not read"),)
    with torch.device("meta"):  # before training
        assert problem_of(builder, tmp_path).message == unsafe.message
    file.write_bytes(b"half a download")
    damaged = problem_of(builder, tmp_path)
    assert (damaged.message, damaged.code) == (f"file `{file}` cannot be read as safetensors", "unreadable-file")
    save_file({key: value for key, value in state.items() if key != "decoder.conv_in.bias"}, file)
    missing = problem_of(builder, tmp_path)
    assert missing.message == f"the weights of `{tmp_path}` have no `decoder.conv_in.bias`, which its config describes"
    assert (missing.code, missing.subject) == ("missing-weights", "decoder.conv_in.bias")
    save_file({**state, "decoder.conv_in.bias": torch.zeros(3)}, file)
    misfit = problem_of(builder, tmp_path)
    assert (misfit.message, misfit.code) == (f"the weights of `{tmp_path}` do not fit its config", "wrong-shape")
    part = problem_of(builder, published, subfolder="vae", frozen=["decoder.conv_inn"])
    assert part.message == (
        "`frozen` of model `pretrained_expander` names `decoder.conv_inn`, which the network does not have"
    )
    assert (part.code, part.subject, part.nearest) == ("unknown-name", "decoder.conv_inn", "decoder.conv_in")


@pytest.mark.parametrize("builder", HALVES)
def test_a_missing_library_is_reported_with_the_extra_to_install(builder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)

    problem = problem_of(builder, "nobody/nothing")

    assert problem.message == "the library diffusers, which `pretrained_*` models need, is not installed"
    assert (problem.code, problem.subject) == ("missing-dependency", "diffusers")
    assert problem.notes == (("command", "pip install 'fluxflow-registry[diffusers]'"),)
