"""SPADE and FiLM: their equations, a start that changes nothing, switching on and off, and what is remembered."""

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
from fluxflow_vae.conditioning import Film, Spade, SpadeBlock
from fluxflow_vae.models import CompressorBuilder, ExpanderBuilder

from ..engine.conftest import start, weights
from ..small import PLUGINS


def expander(**options: Any) -> Any:
    torch.manual_seed(0)
    return ExpanderBuilder(latent_channels=2, width=8, **options)()


def learned(**options: Any) -> Any:
    """An expander whose conditioning layers have moved from their start."""
    model = expander(**options)
    with torch.no_grad():
        for layer in model.body:
            if isinstance(layer, SpadeBlock | Film):
                for weight in layer.parameters():
                    weight.add_(0.3 * torch.randn(weight.shape))
    return model


def latents(seed: int = 1) -> Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_spade_is_a_normalisation_scaled_and_shifted_by_what_the_context_says() -> None:
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


def test_spade_sees_no_level_and_no_contrast_but_those_of_the_context() -> None:
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


def test_new_layers_leave_the_picture_as_it_is_without_them() -> None:
    model = expander(spade=True, film_width=3)
    z = latents()

    plain = model(z, spade=False)

    assert torch.equal(model(z, spade=True), plain)
    assert torch.equal(model(z, spade=False, vector=torch.randn(2, 3)), plain)


def test_spade_that_is_off_is_not_computed_and_that_is_on_changes_the_picture() -> None:
    model, z = learned(spade=True), latents()
    ran: list[SpadeBlock] = []
    for layer in model.body:
        if isinstance(layer, SpadeBlock):
            layer.register_forward_hook(lambda block, *_: ran.append(block))

    off = model(z, spade=False)
    assert ran == []
    on = model(z, spade=True)

    assert len(ran) == 2  # one at each resolution
    assert float((on - off).detach().abs().mean()) > 0.01


@pytest.mark.parametrize("told", [True, False])
def test_an_expander_that_is_not_told_decodes_as_it_was_trained_last(told: bool) -> None:
    model, z = learned(spade=True), latents()
    assert torch.equal(model.eval()(z), model(z, spade=True))  # as it was made

    model.train()(z, spade=not told)
    model(z, spade=told)  # in training: this counts
    again = learned(spade=True)
    again.load_state_dict(model.state_dict())
    model.eval()(z, spade=not told)  # and this does not

    for one in (model, again.eval(), model.train()):
        assert torch.equal(one(z), model.eval()(z, spade=told))
        assert not torch.equal(one(z), model(z, spade=not told))


def test_what_is_remembered_is_used_without_a_look_at_it() -> None:
    with torch.device("meta"):
        model = expander(spade=True)

    assert model(torch.empty(2, 2, 4, 4, device="meta")).shape == (2, 3, 16, 16)
    assert model(torch.empty(2, 2, 4, 4, device="meta"), spade=False).shape == (2, 3, 16, 16)


def test_a_gradient_walks_back_through_a_picture_although_spade_has_been_switched_meanwhile() -> None:
    model, z = learned(spade=True), latents()

    image = model(z)
    model(z, spade=False)
    image.sum().backward()

    gradients = {name: weight.grad for name, weight in model.named_parameters() if ".spade." in name}
    assert len(gradients) == 4
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_spade_in_an_expander_without_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no SPADE blocks: `spade: true` in its own entry gives it some"):
        expander()(latents(), spade=True)

    assert expander()(latents(), spade=False).shape == (2, 3, 16, 16)  # there is nothing to switch off


@pytest.mark.parametrize(("options", "width"), [({}, "None"), ({"film_width": 5}, "5")])
def test_a_vector_that_does_not_fit_is_refused(options: dict[str, Any], width: str) -> None:
    with pytest.raises(ValueError, match=f"cannot take a vector of width 3: its `film_width` is {width}"):
        expander(**options)(latents(), vector=torch.randn(2, 3))


def test_the_vector_changes_the_picture_once_that_is_learned_and_gets_a_gradient() -> None:
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


class Look:
    """At each step's end: pictures as generation decodes them and without context, and the expander's weights."""

    def __init__(self) -> None:
        self.drawn: dict[str, dict[str, Tensor]] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}

    @hookimpl
    def step_ended(self, run: Any, step: Any) -> None:
        wanted = ["reconstruction", "reconstruction_mean", "reconstruction_without_context", "context", "latent"]
        self.drawn[step.name] = run.draw(wanted, run.peek("shapes", 4))
        self.weights[step.name] = weights({"expander": run.engine.models["expander"]})


@pytest.fixture(scope="module")
def plugins() -> Registry:
    """What these recipes name, without observers."""
    return load(PLUGINS)


def test_a_step_switches_spade_and_pictures_are_decoded_as_it_was_trained(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    look = Look()

    start(prove(RECIPE, using=plugins), tmp_path / "runs", [look])

    plain, off, on = (look.drawn[name] for name in ("plain", "spade_off", "spade_on"))
    for without in (plain, off):
        assert torch.equal(without["reconstruction_mean"], without["reconstruction_without_context"])
        assert torch.equal(without["reconstruction_mean"], without["reconstruction"])
    assert torch.equal(on["reconstruction_mean"], on["reconstruction"])
    assert not torch.allclose(on["reconstruction_mean"], on["reconstruction_without_context"], atol=1e-3)
    assert torch.equal(on["context"], on["latent"])


def test_weights_of_spade_rest_while_it_is_off_and_move_while_it_is_on(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    look = Look()
    recipe = prove(RECIPE, using=plugins)

    start(recipe, tmp_path / "runs", [look])

    fresh = weights({"expander": build_models(recipe, torch.device("cpu"))["expander"]})
    spade = [name for name in fresh if ".spade." in name]
    assert len(spade) == 4
    assert all(torch.equal(look.weights["plain"][name], fresh[name]) for name in spade)
    assert not any(torch.equal(look.weights["spade_on"][name], fresh[name]) for name in spade)
    active = {name: bool(held["expander.spade_active"]) for name, held in look.weights.items()}
    assert active == {"plain": False, "spade_off": False, "spade_on": True}


def test_a_step_that_switches_spade_on_where_there_is_none_is_refused_before_it_is_trained(
    prove: Callable[..., RecipePlan], plugins: Registry
) -> None:
    recipe = prove(RECIPE.replace(", spade: true}", "}", 1), using=plugins)

    with pytest.raises(
        FluxflowError, match=r"in step `spade_on`, value `reconstruction` failed: .*the expander has no SPADE"
    ):
        prove_shapes(recipe)


def test_layers_that_take_no_part_do_not_hinder_an_update_whose_graph_is_cut(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    text = RECIPE.replace("losses: {l1: {}}", "losses: {l1: {}, mse: {detach: [latent]}}")
    recipe = prove(text.replace("spade: true}", "spade: true, film_width: 3}", 1), using=plugins)
    look = Look()

    start(recipe, tmp_path / "runs", [look])

    plain, on = look.weights["plain"], look.weights["spade_on"]
    assert all(value.isfinite().all() for value in on.values())
    moved = {name for name, value in on.items() if not torch.equal(value, plain[name])}
    assert "expander.out.0.weight" in moved
    assert {name for name in on if ".spade." in name} <= moved
    assert not [name for name in moved if ".affine." in name]  # FiLM, without a vector


def test_compressor_and_expander_meet_at_the_latent_whatever_conditions_there_are() -> None:
    compressor = CompressorBuilder(latent_channels=2, width=8, downscale=8)()
    model = ExpanderBuilder(latent_channels=2, width=8, downscale=8, spade=True, film_width=3)()
    image = torch.randn(1, 3, 24, 40)

    decoded = model(compressor(image).mean, spade=True, vector=torch.randn(1, 3))

    assert decoded.shape == image.shape
