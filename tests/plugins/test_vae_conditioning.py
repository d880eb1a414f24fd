"""SPADE and FiLM: their equations, their initialization, and how SPADE is switched on and off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_registry import hookimpl
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.errors import FluxflowError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry
from fluxflow_vae.blocks import Film, Spade, SpadeBlock
from fluxflow_vae.models import CompressorBuilder, ExpanderBuilder

from ..engine.conftest import start, weights
from ..small import PLUGINS


def expander(**options: Any) -> Any:
    torch.manual_seed(0)
    return ExpanderBuilder(latent_channels=2, width=8, **options)()


def trained_expander(**options: Any) -> Any:
    """An expander whose conditioning layers are not at their initialization."""
    model = expander(**options)
    with torch.no_grad():
        for layer in model.body:
            if isinstance(layer, SpadeBlock | Film):
                for weight in layer.parameters():
                    weight.add_(0.3 * torch.randn(weight.shape))
    return model


def latents(seed: int = 1) -> Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_spade_is_a_normalization_scaled_and_shifted_by_the_context() -> None:
    layer = Spade(4, 1)
    with torch.no_grad():
        layer.modulation.weight.zero_()
        layer.modulation.weight[:4, 0, 1, 1] = 0.5  # gamma is half the context
        layer.modulation.weight[4:, 0, 1, 1] = 2.0  # beta is twice the context
        layer.modulation.bias.zero_()  # type: ignore[union-attr]
    x = 7 + 3 * torch.randn(1, 4, 4, 4)
    context = torch.tensor([[1.0, -1.0]]).repeat(2, 1).view(1, 1, 2, 2)  # left and right, at half the resolution

    y = layer(x, context)

    norm = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(y[..., :2], norm[..., :2] * 1.5 + 2)
    torch.testing.assert_close(y[..., 2:], norm[..., 2:] * 0.5 - 2)


def test_spade_removes_level_and_contrast_and_takes_them_from_the_context() -> None:
    torch.manual_seed(0)
    layer, x, context = Spade(8, 2), torch.randn(2, 8, 6, 6), latents()[..., :3, :3]

    y = layer(x, context)

    torch.testing.assert_close(layer(5 * x - 3, context), y, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(layer(x, 2 * context), y, atol=1e-2)
    assert not [name for name, _ in layer.norm.named_parameters()]


def test_film_scales_and_shifts_each_channel_by_a_linear_map_of_the_vector() -> None:
    layer, x = Film(2, 1), torch.randn(2, 2, 3, 3)
    with torch.no_grad():
        layer.affine.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [4.0]]))
    vector = torch.tensor([[0.5], [-2.0]])

    y = layer(x, vector)

    for sample, v in enumerate((0.5, -2.0)):
        torch.testing.assert_close(y[sample, 0], x[sample, 0] * (1 + v))
        torch.testing.assert_close(y[sample, 1], x[sample, 1] + 4 * v)


def test_new_conditioning_layers_do_not_change_the_image() -> None:
    model = expander(spade=True, film_width=3)
    z = latents()

    plain = model(z, spade=False)

    assert torch.equal(model(z, spade=True), plain)
    assert torch.equal(model(z, spade=False, vector=torch.randn(2, 3)), plain)


def test_spade_blocks_are_computed_only_if_they_are_on() -> None:
    model, z = trained_expander(spade=True), latents()
    ran: list[SpadeBlock] = []
    for layer in model.body:
        if isinstance(layer, SpadeBlock):
            layer.register_forward_hook(lambda block, *_: ran.append(block))

    off = model(z, spade=False)
    assert ran == []
    on = model(z, spade=True)

    assert len(ran) == 2  # one at each resolution
    assert float((on - off).detach().abs().mean()) > 0.01


@pytest.mark.parametrize("on", [True, False])
def test_a_call_without_a_switch_decodes_as_last_trained(on: bool) -> None:
    model, z = trained_expander(spade=True), latents()
    assert torch.equal(model.eval()(z), model(z, spade=True))  # a new expander

    model.train()(z, spade=not on)
    model(z, spade=on)  # the last switch in training
    resumed = trained_expander(spade=True)
    resumed.load_state_dict(model.state_dict())
    model.eval()(z, spade=not on)  # in evaluation, so it is not kept

    for each in (model, resumed.eval(), model.train()):
        assert torch.equal(each(z), model.eval()(z, spade=on))
        assert not torch.equal(each(z), model(z, spade=not on))


def test_the_kept_switch_works_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = expander(spade=True)

    assert model(torch.empty(2, 2, 4, 4, device="meta")).shape == (2, 3, 16, 16)
    assert model(torch.empty(2, 2, 4, 4, device="meta"), spade=False).shape == (2, 3, 16, 16)


def test_the_gradient_of_an_image_survives_a_later_switch_of_spade() -> None:
    model, z = trained_expander(spade=True), latents()

    image = model(z)
    model(z, spade=False)
    image.sum().backward()

    gradients = {name: weight.grad for name, weight in model.named_parameters() if ".spade." in name}
    assert len(gradients) == 4
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_an_expander_without_spade_blocks_can_only_be_switched_off() -> None:
    with pytest.raises(ValueError, match=r"the expander has no SPADE blocks: set `spade: true` in its entry"):
        expander()(latents(), spade=True)

    assert expander()(latents(), spade=False).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(("options", "width"), [({}, "None"), ({"film_width": 5}, "5")])
def test_a_vector_of_another_width_is_rejected(options: dict[str, Any], width: str) -> None:
    with pytest.raises(ValueError, match=f"the expander cannot use a vector of width 3: its `film_width` is {width}"):
        expander(**options)(latents(), vector=torch.randn(2, 3))


def test_film_learns_to_change_the_image_with_the_vector() -> None:
    model, z = expander(film_width=2), latents()
    vector = torch.eye(2).requires_grad_()
    target = torch.tensor([0.5, -0.5]).view(2, 1, 1, 1).expand(2, 3, 16, 16)  # one is bright, the other dark
    same = z[:1].expand(2, -1, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(same, vector=vector) - target).abs().mean()
        loss.backward()
        optimizer.step()

    bright, dark = model(same, vector=vector).detach().mean(dim=(1, 2, 3))
    assert float(bright) > 0.3
    assert float(dark) < -0.3
    assert vector.grad is not None
    assert bool((vector.grad != 0).all())


RECIPE = """
recipe: 1
name: switched
models:
  compressor: {type: compressor, latent_channels: 2, width: 8}
  expander: {type: expander, latent_channels: 2, width: 8, spade: true}
datasets:
  shapes: {type: shapes, image_size: 16, length: 16}
values:
  latent: {sample: false}
defaults:
  dataset: shapes
  batch_size: 4
  updates:
    vae:
      losses: {l1: {}}
      optimizer: {type: AdamW, lr: 3.0e-2, weight_decay: 0.1}
steps:
  plain:
    updates: {vae: {trains: [compressor, expander]}}
    values: {reconstruction: {spade: false}}
  spade_off:
    after: plain
    updates: {vae: {trains: [compressor, expander]}}
  spade_on:
    after: plain
    updates: {vae: {trains: [compressor, expander]}}
    values: {reconstruction: {spade: true}}
"""


class Recorder:
    """Records reconstructions of several kinds and the expander's weights at the end of each step."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Tensor]] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}

    @hookimpl
    def step_ended(self, run: Any, step: Any) -> None:
        names = ["reconstruction", "reconstruction_mean", "reconstruction_without_context", "context", "latent"]
        self.values[step.name] = run.draw(names, run.peek("shapes", 4))
        self.weights[step.name] = weights({"expander": run.engine.models["expander"]})


@pytest.fixture(scope="module")
def plugins() -> Registry:
    """What these recipes name, without observers."""
    return load(PLUGINS)


def test_a_step_switches_spade_and_images_are_decoded_as_last_trained(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    recorder = Recorder()

    start(prove(RECIPE, using=plugins), tmp_path / "runs", [recorder])

    plain, off, on = (recorder.values[name] for name in ("plain", "spade_off", "spade_on"))
    for without in (plain, off):
        assert torch.equal(without["reconstruction_mean"], without["reconstruction_without_context"])
        assert torch.equal(without["reconstruction_mean"], without["reconstruction"])
    assert torch.equal(on["reconstruction_mean"], on["reconstruction"])
    assert not torch.allclose(on["reconstruction_mean"], on["reconstruction_without_context"], atol=1e-3)
    assert torch.equal(on["context"], on["latent"])


def test_the_weights_of_spade_are_trained_only_while_it_is_on(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    recorder = Recorder()
    recipe = prove(RECIPE, using=plugins)

    start(recipe, tmp_path / "runs", [recorder])

    fresh = weights({"expander": build_models(recipe, torch.device("cpu"))["expander"]})
    spade = [name for name in fresh if ".spade." in name]
    assert len(spade) == 4
    assert all(torch.equal(recorder.weights["plain"][name], fresh[name]) for name in spade)
    assert not any(torch.equal(recorder.weights["spade_on"][name], fresh[name]) for name in spade)
    active = {name: bool(saved["expander.spade_active"]) for name, saved in recorder.weights.items()}
    assert active == {"plain": False, "spade_off": False, "spade_on": True}


def test_a_step_that_switches_on_missing_spade_blocks_is_rejected_before_training(
    prove: Callable[..., RecipePlan], plugins: Registry
) -> None:
    recipe = prove(RECIPE.replace(", spade: true}", "}", 1), using=plugins)

    with pytest.raises(
        FluxflowError, match=r"in step `spade_on`, value `reconstruction` failed: .*the expander has no SPADE"
    ):
        prove_shapes(recipe)


def test_unused_conditioning_layers_do_not_affect_an_update_with_a_detached_value(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    text = RECIPE.replace("losses: {l1: {}}", "losses: {l1: {}, mse: {detach: [latent]}}")
    recipe = prove(text.replace("spade: true}", "spade: true, film_width: 3}", 1), using=plugins)
    recorder = Recorder()

    start(recipe, tmp_path / "runs", [recorder])

    plain, on = recorder.weights["plain"], recorder.weights["spade_on"]
    assert all(value.isfinite().all() for value in on.values())
    trained = {name for name, value in on.items() if not torch.equal(value, plain[name])}
    assert "expander.out.0.weight" in trained
    assert {name for name in on if ".spade." in name} <= trained
    assert not [name for name in trained if ".affine." in name]  # FiLM layers, which need a vector


def test_compressor_and_expander_fit_with_all_conditioning_layers() -> None:
    compressor = CompressorBuilder(latent_channels=2, width=8, downscale=8)()
    model = ExpanderBuilder(latent_channels=2, width=8, downscale=8, spade=True, film_width=3)()
    image = torch.randn(1, 3, 24, 40)

    decoded = model(compressor(image).mean, spade=True, vector=torch.randn(1, 3))

    assert decoded.shape == image.shape
