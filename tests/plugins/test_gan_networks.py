"""The patch discriminator: one logit for each patch, and a gradient penalty that reaches its weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_gan.models import PatchDiscriminatorBuilder


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.integers(1, 3), st.integers(1, 3))
def test_there_is_one_logit_for_each_patch(depth: int, spectral_norm: bool, rows: int, columns: int) -> None:
    discriminator = PatchDiscriminatorBuilder(width=4, depth=depth, spectral_norm=spectral_norm)()
    image = torch.randn(2, 3, rows * 2**depth, columns * 2**depth)

    logits = discriminator(image)

    assert logits.shape == (2, 1, rows, columns)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_gradient_penalty_reaches_every_convolution(spectral_norm: bool) -> None:
    discriminator = PatchDiscriminatorBuilder(width=8, spectral_norm=spectral_norm)()
    image = torch.randn(2, 3, 32, 32, requires_grad=True)

    score = discriminator(image).mean(dim=(1, 2, 3)).sum()
    (slope,) = torch.autograd.grad(score, image, create_graph=True)
    penalty: Tensor = slope.square().sum(dim=(1, 2, 3)).mean()
    torch.autograd.backward(penalty)

    weights = [w for name, w in discriminator.named_parameters() if "weight" in name]
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in weights)


def test_spectral_norm_bounds_the_lipschitz_constant() -> None:
    discriminator = PatchDiscriminatorBuilder(spectral_norm=True)()
    with torch.no_grad():  # for weights of any scale
        for weight in discriminator.parameters():
            weight.mul_(10.0)
    x = torch.randn(64, 3, 32, 32)
    for _ in range(20):
        discriminator(x)

    moved = x + 0.01 * torch.randn(x.shape)
    change = (discriminator(moved) - discriminator(x)).flatten(1).norm(dim=1)

    # Each kernel has spectral norm one as a matrix; as a convolution it may be somewhat larger.
    assert (change < 30 * (moved - x).flatten(1).norm(dim=1)).all()


def test_a_logit_does_not_depend_on_the_far_side_of_the_image() -> None:
    discriminator = PatchDiscriminatorBuilder()()
    image = torch.randn(1, 3, 64, 64)
    other = image.clone()
    other[..., -8:] = 0

    before, after = discriminator(image), discriminator(other)

    assert torch.equal(before[..., 0], after[..., 0])
    assert not torch.equal(before[..., -1], after[..., -1])


def test_the_gain_of_details_changes_logits_at_an_edge_but_not_on_a_flat_area() -> None:
    flat = torch.full((1, 3, 16, 16), 0.3)
    edge = torch.cat([flat[..., :8], -flat[..., 8:]], dim=-1)

    large = PatchDiscriminatorBuilder(details=4.0)()
    small = PatchDiscriminatorBuilder(details=1.0)()
    small.load_state_dict(large.state_dict())

    assert torch.allclose(large(flat), small(flat), atol=1e-5)
    assert not torch.allclose(large(edge), small(edge), atol=1e-5)


def test_a_discriminator_on_the_meta_device_has_the_shapes_of_a_real_one_and_draws_no_numbers() -> None:
    build = PatchDiscriminatorBuilder(width=4, spectral_norm=True, context_width=3)
    before = torch.get_rng_state()

    with torch.device("meta"):
        outline = build()

    assert torch.equal(torch.get_rng_state(), before)
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (outline, build())]
    assert shapes[0] == shapes[1]
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
    assert outline(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 1, 4, 4)
