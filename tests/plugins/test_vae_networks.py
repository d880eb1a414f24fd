"""The autoencoder's two networks: their shapes, gradients, initialization and buffers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_registry.engine.models.checkpointing import checkpoint_blocks
from fluxflow_vae.blocks import ResamplingBlock, ResidualBlock, SelfAttention, Upsample, build_enlargement
from fluxflow_vae.models import CompressorBuilder, ExpanderBuilder

options = st.fixed_dictionaries(
    {
        "latent_channels": st.integers(1, 6),
        "width": st.sampled_from([4, 8]),
        "depth": st.integers(0, 2),
        "patch": st.sampled_from([1, 2]),
        "downscale": st.sampled_from([2, 4, 8]),
        "activation": st.sampled_from(["silu", "relu", "leaky_relu", "bezier", "bezier_channel"]),
        "norm": st.sampled_from(["none", "group", "batch"]),
        "attention": st.booleans(),
    }
)
expanders = st.fixed_dictionaries(
    {
        "upsample": st.sampled_from(["interpolate", "bilinear", "transposed"]),
        "spade": st.booleans(),
        "film_width": st.none() | st.integers(1, 4),
    }
)

#: Each choice of every option at least once.
VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"activation": "bezier", "attention": True}, {"spade": True}),
    ({"activation": "bezier_channel", "norm": "group", "depth": 2}, {"upsample": "bilinear", "film_width": 3}),
    ({"activation": "leaky_relu", "norm": "batch", "attention": True}, {"upsample": "transposed", "spade": True}),
    ({"activation": "relu", "depth": 0, "downscale": 8}, {"upsample": "transposed", "film_width": 2, "spade": True}),
    ({"activation": "bezier", "norm": "batch", "patch": 1}, {"upsample": "interpolate"}),
    ({"activation": "bezier", "norm": "group"}, {"upsample": "transposed"}),
    ({"attention": True, "attention_downscale": 2}, {}),
]
EACH = pytest.mark.parametrize(("shared", "own"), VARIANTS, ids=lambda chosen: " ".join(map(str, chosen.values())))


def perturbed(shared: dict[str, Any], own: dict[str, Any], seed: int = 0) -> tuple[Any, Any, dict[str, Tensor]]:
    """Both networks with weights that are nowhere zero, and the arguments of the expander."""
    torch.manual_seed(seed)
    compressor: Any = CompressorBuilder(latent_channels=3, **{"width": 8, **shared})()
    expander: Any = ExpanderBuilder(latent_channels=3, **{"width": 8, **shared}, **own)()
    with torch.no_grad():
        for weight in [*compressor.parameters(), *expander.parameters()]:
            weight.add_(0.02 * torch.randn(weight.shape))
    given = {"vector": torch.randn(2, own["film_width"])} if own.get("film_width") else {}
    return compressor, expander, given


@settings(max_examples=25, deadline=None)
@given(options, expanders, st.integers(1, 3), st.integers(1, 3))
def test_the_expander_restores_the_shape_of_the_image(
    chosen: dict[str, Any], own: dict[str, Any], rows: int, columns: int
) -> None:
    compressor, expander = CompressorBuilder(**chosen)(), ExpanderBuilder(**chosen, **own)()
    image = torch.randn(2, 3, rows * chosen["downscale"], columns * chosen["downscale"])

    posterior = compressor(image)
    reconstruction = expander(posterior.mean)

    assert posterior.mean.shape == (2, chosen["latent_channels"], rows, columns)
    assert posterior.logvar.shape == posterior.mean.shape
    assert reconstruction.shape == image.shape


@EACH
def test_the_gradient_reaches_every_weight(shared: dict[str, Any], own: dict[str, Any]) -> None:
    compressor, expander, arguments = perturbed(shared, own)

    posterior = compressor(torch.randn(2, 3, 16, 24))
    expander(posterior.mean + posterior.logvar, **arguments).square().mean().backward()

    weights = [*compressor.named_parameters(), *expander.named_parameters()]
    assert not [name for name, weight in weights if weight.grad is None or not weight.grad.abs().sum() > 0]


@EACH
def test_outputs_and_gradients_are_finite_in_bf16(shared: dict[str, Any], own: dict[str, Any]) -> None:
    compressor, expander, arguments = perturbed(shared, own)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = compressor(torch.randn(2, 3, 16, 24))
        image = expander(posterior.mean, **arguments)
    image.float().square().mean().backward()

    assert image.isfinite().all()
    assert image.shape == (2, 3, 16, 24)
    assert all(w.grad is None or w.grad.isfinite().all() for w in [*compressor.parameters(), *expander.parameters()])


@EACH
def test_channels_last_memory_has_the_same_results(shared: dict[str, Any], own: dict[str, Any]) -> None:
    compressor, expander, arguments = perturbed(shared, own)
    image = torch.randn(2, 3, 16, 24)
    mean, decoded = compressor(image).mean, expander(compressor(image).mean, **arguments)

    compressor.to(memory_format=torch.channels_last)
    expander.to(memory_format=torch.channels_last)
    again = compressor(image.to(memory_format=torch.channels_last)).mean

    torch.testing.assert_close(again, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(expander(again, **arguments), decoded, atol=1e-4, rtol=1e-4)


@EACH
def test_activation_checkpointing_has_the_same_gradients(shared: dict[str, Any], own: dict[str, Any]) -> None:
    found = []
    for checkpointed in (False, True):
        compressor, expander, arguments = perturbed(shared, own)
        if checkpointed:
            checkpoint_blocks(compressor)
            checkpoint_blocks(expander)
        torch.manual_seed(1)
        expander(compressor(torch.randn(2, 3, 16, 16)).mean, **arguments).square().mean().backward()
        found.append({name: w.grad for model in (compressor, expander) for name, w in model.named_parameters()})

    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.parametrize(
    ("build", "options", "total", "first"),
    [
        (CompressorBuilder, {}, 10.01964, 0.00166294),
        (ExpanderBuilder, {}, -5.16835, -0.01748566),
        (CompressorBuilder, {"width": 32, "activation": "leaky_relu"}, 2.67304, 0.00046785),
        (ExpanderBuilder, {"width": 32, "activation": "leaky_relu", "attention": True}, 69.99724, 0.02019017),
    ],
)
def test_the_initial_weights_of_the_default_autoencoder_do_not_change(
    build: Any, options: dict[str, Any], total: float, first: float
) -> None:
    torch.manual_seed(0)

    weights = [weight.detach().double() for weight in build(**options)().parameters()]

    assert float(torch.stack([weight.sum() for weight in weights]).sum()) == pytest.approx(total, abs=1e-3)
    assert float(weights[-2].flatten()[0]) == pytest.approx(first, abs=1e-6)


def test_the_posterior_starts_close_to_the_prior() -> None:
    compressor = CompressorBuilder()()

    posterior = compressor(torch.randn(4, 3, 32, 32))

    assert posterior.mean.abs().max() < 0.1
    assert posterior.logvar.abs().max() < 0.1


def test_logvar_is_clamped() -> None:
    compressor: Any = CompressorBuilder()()
    with torch.no_grad():
        compressor.logvar.weight.mul_(1e6)

    logvar = compressor(torch.randn(4, 3, 32, 32)).logvar

    assert logvar.max() == 10
    assert logvar.min() == -10


@pytest.mark.parametrize("build", [CompressorBuilder, ExpanderBuilder])
def test_attention_is_initialized_to_the_identity(build: Any) -> None:
    network = build(attention=True)()
    (layer,) = [one for one in network.body if isinstance(one, SelfAttention)]
    x = torch.randn(2, layer.out.in_channels, 3, 4)

    before = layer(x)
    torch.nn.init.normal_(layer.out.weight)
    after = layer(x)

    assert torch.equal(before, x)
    assert not torch.allclose(after, x)


def test_latent_rms_tracks_the_mean_in_training_but_not_in_evaluation() -> None:
    compressor: Any = CompressorBuilder(width=4)()
    torch.nn.init.constant_(compressor.mean.bias, 3.0)
    torch.nn.init.zeros_(compressor.mean.weight)
    image = torch.randn(1, 3, 4, 4)

    for _ in range(800):
        compressor(image)
    tracked = compressor.latent_rms.clone()
    compressor.eval()(image)

    assert abs(tracked - 3.0) < 0.01
    assert torch.equal(compressor.latent_rms, tracked)
    assert "latent_rms" in compressor.state_dict()


@pytest.mark.parametrize("build", [CompressorBuilder, ExpanderBuilder])
@pytest.mark.parametrize("downscale", [0, 3, 6, 1])
def test_a_downscale_that_is_not_patch_times_a_power_of_two_is_rejected(build: Any, downscale: int) -> None:
    with pytest.raises(ValueError, match="downscale is"):
        build(downscale=downscale)


@pytest.mark.parametrize(("height", "width"), [(18, 16), (16, 10)])
def test_an_image_whose_sides_do_not_fit_is_rejected(height: int, width: int) -> None:
    compressor = CompressorBuilder(width=4)()

    with pytest.raises(ValueError, match=f"an image of {width} x {height} pixels: its sides must be multiples of 4"):
        compressor(torch.randn(1, 3, height, width))


@pytest.mark.parametrize("build", [CompressorBuilder, ExpanderBuilder])
def test_attention_is_at_the_resolution_of_attention_downscale(build: Any) -> None:
    coarsest, finer = (build(width=4, downscale=16, attention=True, attention_downscale=at)().body for at in (None, 4))

    assert [layer.out.in_channels for layer in coarsest if isinstance(layer, SelfAttention)] == [16]  # width 4 x 4
    assert [layer.out.in_channels for layer in finer if isinstance(layer, SelfAttention)] == [8]  # at a quarter


def attention_sizes(network: Any, x: Tensor) -> list[list[int]]:
    """The heights and widths of the inputs of attention layers."""
    seen: list[list[int]] = []
    for layer in network.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(list(inputs[0].shape[-2:])))
    network(x)
    return seen


@pytest.mark.parametrize(("at", "side"), [(None, 2), (16, 2), (8, 4), (2, 16)])
def test_attention_sees_the_image_at_attention_downscale(at: int | None, side: int) -> None:
    chosen: dict[str, Any] = {"width": 4, "downscale": 16, "attention": True, "attention_downscale": at}

    compressed = attention_sizes(CompressorBuilder(**chosen)(), torch.randn(1, 3, 32, 32))
    expanded = attention_sizes(ExpanderBuilder(**chosen)(), torch.randn(1, 8, 2, 2))

    assert compressed == expanded == [[side, side]]


@pytest.mark.parametrize("build", [CompressorBuilder, ExpanderBuilder])
def test_a_resolution_without_attention_is_rejected(build: Any) -> None:
    with pytest.raises(ValueError, match="attention_downscale is 3: the resolutions are 2, 4"):
        build(attention=True, attention_downscale=3)
    with pytest.raises(ValueError, match="attention_downscale is 4, but attention is off: set `attention: true`"):
        build(attention_downscale=4)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_skip_and_main_branch_have_the_same_variance_with_a_norm(norm: Any) -> None:
    torch.manual_seed(0)
    compressor: Any = CompressorBuilder(width=16, downscale=8, norm=norm)()
    sizes: list[tuple[float, float]] = []

    def look(block: Any, inputs: Any) -> None:
        with torch.no_grad():
            sizes.append((float(block.skip(inputs[0]).std()), float(block.branch(inputs[0]).std())))

    blocks = [layer for layer in compressor.body if isinstance(layer, ResidualBlock | ResamplingBlock)]
    for block in blocks:
        block.register_forward_pre_hook(look)
    compressor(30 * torch.randn(8, 3, 32, 32))  # far from unit size

    assert len(sizes) == len(blocks) == 5
    assert all(0.9 < size < 1.1 for pair in sizes for size in pair)


def test_without_a_norm_the_skip_branch_is_the_identity() -> None:
    block = ResidualBlock(4, "silu")
    x = torch.randn(1, 4, 3, 3)

    assert torch.equal(block.skip(x), x)


def test_batch_statistics_are_collected_in_training_and_used_in_evaluation() -> None:
    torch.manual_seed(0)
    compressor = CompressorBuilder(width=8, norm="batch")()
    image = torch.randn(4, 3, 16, 16)

    for _ in range(100):
        compressor(image)
    alone = compressor.eval()(image[:1]).mean
    together = compressor(image).mean[:1]

    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("upsample", ["interpolate", "bilinear", "transposed"])
def test_upsampling_keeps_a_flat_area_flat_unless_it_is_transposed(upsample: Any) -> None:
    torch.manual_seed(0)
    layer = Upsample(3, 2, upsample)

    inner = layer(torch.full((1, 3, 8, 8), 0.7))[..., 4:-4, 4:-4].detach()

    assert inner.shape == (1, 2, 8, 8)
    spread = float(inner.std(dim=(2, 3)).max())
    assert spread > 0.01 if upsample == "transposed" else spread < 1e-6  # the checkerboard


def test_bilinear_upsampling_interpolates_and_nearest_upsampling_repeats() -> None:
    x = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)

    assert build_enlargement("bilinear")(x).tolist() == [[[[0.0, 1.0, 3.0, 4.0]] * 2]]
    assert build_enlargement("interpolate")(x).tolist() == [[[[0.0, 0.0, 4.0, 4.0]] * 2]]


@pytest.mark.parametrize("factor", [0.13025, 0.18215])
def test_a_scaling_factor_of_the_recipe_does_not_change(factor: float) -> None:
    compressor: Any = CompressorBuilder(width=4, scaling_factor=factor)()
    measured: Any = CompressorBuilder(width=4)()

    for _ in range(3):
        compressor(torch.randn(2, 3, 8, 8))

    assert float(compressor.latent_rms) == pytest.approx(1 / factor)
    assert float(measured.latent_rms) == 1.0  # until it is measured


def test_a_scaling_factor_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match="scaling_factor"):
        CompressorBuilder(scaling_factor=0.0)


def test_the_latent_shift_is_saved_and_is_zero_in_weights_that_lack_it() -> None:
    compressor: Any = CompressorBuilder(width=4)()
    saved = compressor.state_dict()
    shifted = {**saved, "latent_shift": torch.tensor(0.5)}
    older = {name: value for name, value in saved.items() if name != "latent_shift"}

    compressor.load_state_dict(shifted)
    assert float(compressor.latent_shift) == 0.5
    compressor.load_state_dict(older)

    assert float(compressor.latent_shift) == 0
    assert "latent_shift" not in older
    with pytest.raises(RuntimeError, match="latent_rms"):  # which has no default
        compressor.load_state_dict({name: value for name, value in saved.items() if name != "latent_rms"})
