"""The networks over latents accept every size that fits, read the whole text, and ignore its padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow_flow.models import FlowTransformerBuilder, UnetBuilder
from fluxflow_flow.positions import grid_positions, grid_rotation, rotate
from fluxflow_flow.transformer import JointBlock

#: Every kind of network, with the builder's options.
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cross, sincos": (FlowTransformerBuilder, {"depth": 2}),
    "cross, rotary": (FlowTransformerBuilder, {"depth": 2, "positions": "rotary"}),
    "joint, sincos": (FlowTransformerBuilder, {"depth": 2, "text": "joint"}),
    "joint, rotary": (FlowTransformerBuilder, {"depth": 2, "text": "joint", "positions": "rotary"}),
    "unet": (UnetBuilder, {"depth": 1, "channel_mults": [1, 2]}),
    "unet, attention everywhere": (UnetBuilder, {"depth": 1, "channel_mults": [1, 2], "attention": [0, 1]}),
}

every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: str = "cross, sincos", **options: Any) -> nn.Module:
    """A new small network."""
    builder, own = KINDS[kind]
    network: nn.Module = builder(**{"width": 16, "heads": 2, "text_width": 8, "latent_channels": 4, **own, **options})()
    return network


def small(kind: str = "cross, sincos", **options: Any) -> nn.Module:
    """A small network whose output and gates are not zero."""
    network = build(kind, **options)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape) * 0.2)
    return network.eval()


def text(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Random text tokens without padding."""
    return torch.randn(batch, length, 8), torch.ones(batch, length, dtype=torch.bool)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_the_prediction_has_the_shape_of_the_latent_for_every_patch(
    patch: int, rows: int, columns: int, length: int
) -> None:
    network = small(patch=patch)
    latent = torch.randn(3, 4, rows * patch, columns * patch)

    prediction = network(latent, torch.rand(3), *text(3, length))

    assert prediction.shape == latent.shape
    assert torch.isfinite(prediction).all()


@every_kind
@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_the_prediction_has_the_shape_of_the_latent_for_every_size_that_fits(
    kind: str, rows: int, columns: int
) -> None:
    network = small(kind)
    side = int(network.patch)  # type: ignore[arg-type]
    latent = torch.randn(2, 4, rows * side, columns * side)

    found = network(latent, torch.rand(2), *text(2, 3))

    assert found.shape == latent.shape
    assert torch.isfinite(found).all()


@every_kind
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 6), padding=st.integers(1, 6))
def test_padding_does_not_change_the_prediction(kind: str, length: int, padding: int) -> None:
    network = small(kind)
    latent, time = torch.randn(2, 4, 4, 4), torch.rand(2)
    tokens, mask = text(2, length)

    plain = network(latent, time, tokens, mask)
    longer = torch.cat([tokens, torch.full((2, padding, 8), 7.0)], dim=1)
    padded = network(latent, time, longer, nn.functional.pad(mask, (0, padding)))

    assert torch.allclose(plain, padded, atol=1e-4 * float(plain.detach().abs().max()))


@every_kind
def test_the_prediction_starts_at_zero(kind: str) -> None:
    network = build(kind)

    found = network(torch.randn(2, 4, 8, 8), torch.rand(2), *text(2, 3))

    assert (found == 0).all()


@every_kind
@pytest.mark.parametrize("changed", ["latent", "time", "text", "order of the text"])
def test_the_prediction_depends_on(changed: str, kind: str) -> None:
    network = small(kind)
    latent, time, (tokens, mask) = torch.randn(1, 4, 4, 4), torch.full((1,), 0.3), text(1, 4)
    before = network(latent, time, tokens, mask)

    after = {
        "latent": lambda: network(latent + 1, time, tokens, mask),
        "time": lambda: network(latent, time + 0.01, tokens, mask),
        "text": lambda: network(latent, time, tokens + 1, mask),
        "order of the text": lambda: network(latent, time, tokens[:, [1, 0, 2, 3]] * 2, mask),
    }[changed]()

    assert not torch.allclose(before, after, atol=1e-4)


@every_kind
def test_the_gradient_reaches_every_weight_of_the_network(kind: str) -> None:
    network = small(kind)

    network(torch.randn(2, 4, 4, 4), torch.rand(2), *text(2, 3)).square().mean().backward()

    assert not [name for name, w in network.named_parameters() if w.grad is None or not w.grad.any()]


@given(st.integers(1, 12), st.integers(1, 12))
def test_every_position_of_the_grid_has_its_own_encoding(rows: int, columns: int) -> None:
    encoded = grid_positions(rows, columns, 32, torch.device("cpu"))

    distance = torch.cdist(encoded, encoded) + torch.eye(rows * columns) * 9
    assert encoded.shape == (rows * columns, 32)
    assert distance.min() > 0.1


def test_the_encoding_of_a_position_does_not_depend_on_the_size_of_the_grid() -> None:
    wide = grid_positions(4, 9, 16, torch.device("cpu")).view(4, 9, 16)
    narrow = grid_positions(4, 3, 16, torch.device("cpu")).view(4, 3, 16)

    assert torch.equal(wide[:, :3], narrow)


@every_kind
def test_prediction_and_gradients_are_finite_in_bfloat16(kind: str) -> None:
    network = small(kind)

    with torch.autocast("cpu", torch.bfloat16):
        found = network(torch.randn(2, 4, 4, 4), torch.rand(2), *text(2, 3))
    torch.autograd.backward(found.float().square().mean())

    assert found.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize("kind", ["cross, sincos", "cross, rotary", "joint, sincos", "joint, rotary"])
def test_a_transformer_depends_on_the_positions_of_its_tokens(kind: str) -> None:
    network = small(kind, patch=1)
    latent, time, caption = torch.randn(1, 4, 3, 5), torch.full((1,), 0.4), text(1, 3)

    mirrored = network(latent.flip(-1), time, *caption).flip(-1)
    transposed = network(latent.transpose(-1, -2), time, *caption).transpose(-1, -2)
    plain = network(latent, time, *caption)

    assert not torch.allclose(plain, mirrored, atol=1e-2)
    assert not torch.allclose(plain, transposed, atol=1e-2)


def test_products_of_rotated_vectors_depend_only_on_the_distance_in_rows_and_columns() -> None:
    q, k = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 1, 35, 16)
    rotation = grid_rotation(5, 7, 16, torch.device("cpu"))

    product = (rotate(q, rotation) @ rotate(k, rotation).transpose(-1, -2)).view(5, 7, 5, 7)

    assert torch.allclose(product[1, 2, 3, 5], product[0, 1, 2, 4], atol=1e-4)
    assert torch.allclose(product[4, 6, 1, 0], product[3, 6, 0, 0], atol=1e-4)
    assert not torch.allclose(product[1, 2, 3, 5], product[1, 2, 3, 4], atol=1e-2)
    assert not torch.allclose(product[1, 2, 3, 5], product[1, 2, 2, 5], atol=1e-2)
    assert torch.allclose(rotate(q, rotation).norm(dim=-1), q.norm(dim=-1), atol=1e-4)


def test_the_padding_of_the_text_does_not_affect_a_joint_block_with_rotation() -> None:
    block, rotation = JointBlock(8, 2, is_last=False), grid_rotation(2, 2, 4, torch.device("cpu"))
    with torch.no_grad():
        for weight in block.parameters():
            weight.add_(torch.randn(weight.shape) * 0.3)
    x, tokens, condition = torch.randn(1, 4, 8), torch.randn(1, 3, 8), torch.randn(1, 8)
    keys = torch.tensor([[[[True] * 4 + [True, True, False]]]])

    image, read = block(x, condition, tokens, keys, rotation)
    tokens[:, 2] = 50.0
    again, read_again = block(x, condition, tokens, keys, rotation)

    assert torch.allclose(image, again, atol=1e-5)
    assert torch.allclose(read[:, :2], read_again[:, :2], atol=1e-5)


def test_the_options_of_a_unet_set_its_levels_and_its_attention() -> None:
    def parts(**options: Any) -> tuple[int, list[int], list[int]]:
        network: Any = UnetBuilder(**{"width": 8, "heads": 2, "depth": 1, **options})()
        widths = [stages[0].residual.conv_out.out_channels for stages in network.down]
        return network.patch, widths, [n for n, stages in enumerate(network.down) if stages[0].text is not None]

    assert parts() == (4, [8, 16, 16], [1, 2])
    assert parts(channel_mults=[1, 2, 4]) == (4, [8, 16, 32], [1, 2])
    assert parts(channel_mults=[1, 2], attention=[0]) == (2, [8, 16], [0])
    assert parts(channel_mults=[3]) == (1, [24], [0])
    assert parts(attention=[]) == (4, [8, 16, 16], [])


def test_a_unet_depends_on_the_position_even_far_from_every_edge() -> None:
    network = small("unet", channel_mults=[1], attention=[])
    flat = torch.ones(1, 4, 32, 32)

    prediction = network(flat, torch.tensor([0.5]), *text(1, 3))

    middle, beside, below = prediction[0, :, 16, 16], prediction[0, :, 16, 17], prediction[0, :, 17, 16]
    assert min((middle - beside).abs().max(), (middle - below).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": [3]}, "attention names level 3: the levels are 0 \\(the finest\\) to 2"),
        ({"heads": 5}, "heads is 5: it must divide the 256 channels of level 1"),
        ({"width": 6}, "width is 6: it must be a multiple of 4"),
        ({"channel_mults": []}, "channel_mults"),
        ({"channel_mults": [1, 0]}, "channel_mults"),
    ],
)
def test_options_of_a_unet_that_do_not_fit_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnetBuilder(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads is 3: it must divide"),
        ({"width": 6}, "width is 6: it must be"),
        (
            {"width": 24, "heads": 4, "positions": "rotary"},
            "positions is rotary, which needs a multiple of 4 channels per head, not 6 channels per head",
        ),
    ],
)
def test_a_width_that_heads_or_positions_cannot_divide_is_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowTransformerBuilder(**options)
