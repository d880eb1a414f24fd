"""The flow transformer takes any grid, reads all of the text, and nothing of the padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow_flow.models import FlowTransformerBuilder
from fluxflow_flow.networks import positions


def small(**options: Any) -> nn.Module:
    """Build a small network whose output and gates are no longer zero."""
    network = FlowTransformerBuilder(
        **{"width": 16, "depth": 2, "heads": 2, "text_width": 8, "latent_channels": 4, **options}
    )()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape) * 0.2)
    return network.eval()


def text(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Make tokens of random captions, none of them padded."""
    return torch.randn(batch, length, 8), torch.ones(batch, length, dtype=torch.bool)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_the_velocity_has_the_shape_of_the_latent(patch: int, rows: int, columns: int, length: int) -> None:
    network = small(patch=patch)
    latent = torch.randn(3, 4, rows * patch, columns * patch)

    velocity = network(latent, torch.rand(3), *text(3, length))

    assert velocity.shape == latent.shape
    assert torch.isfinite(velocity).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_padding_does_not_change_the_velocity(length: int, padding: int) -> None:
    network = small()
    latent, time = torch.randn(2, 4, 4, 4), torch.rand(2)
    tokens, mask = text(2, length)

    plain = network(latent, time, tokens, mask)
    rubbish = torch.cat([tokens, torch.full((2, padding, 8), 7.0)], dim=1)
    padded = network(latent, time, rubbish, nn.functional.pad(mask, (0, padding)))

    assert torch.allclose(plain, padded, atol=1e-4)


def test_the_velocity_starts_at_zero() -> None:
    network = FlowTransformerBuilder(text_width=8)()

    velocity = network(torch.randn(2, 8, 8, 8), torch.rand(2), *text(2, 3))

    assert (velocity == 0).all()


@pytest.mark.parametrize("changed", ["latent", "time", "text", "order of the text"])
def test_the_velocity_depends_on(changed: str) -> None:
    network = small()
    latent, time, (tokens, mask) = torch.randn(1, 4, 4, 4), torch.full((1,), 0.3), text(1, 4)
    before = network(latent, time, tokens, mask)

    after = {
        "latent": lambda: network(latent + 1, time, tokens, mask),
        "time": lambda: network(latent, time + 0.01, tokens, mask),
        "text": lambda: network(latent, time, tokens + 1, mask),
        "order of the text": lambda: network(latent, time, tokens[:, [1, 0, 2, 3]] * 2, mask),
    }[changed]()

    assert not torch.allclose(before, after, atol=1e-4)


def test_every_weight_of_the_network_learns() -> None:
    network = small()

    network(torch.randn(2, 4, 4, 4), torch.rand(2), *text(2, 3)).square().mean().backward()

    assert not [name for name, w in network.named_parameters() if w.grad is None or not w.grad.any()]


@given(st.integers(1, 12), st.integers(1, 12))
def test_every_place_of_the_grid_has_a_position_of_its_own(rows: int, columns: int) -> None:
    encoded = positions(rows, columns, 32, torch.device("cpu"))

    distance = torch.cdist(encoded, encoded) + torch.eye(rows * columns) * 9
    assert encoded.shape == (rows * columns, 32)
    assert distance.min() > 0.1


def test_a_position_does_not_depend_on_the_size_of_the_grid() -> None:
    wide = positions(4, 9, 16, torch.device("cpu")).view(4, 9, 16)
    narrow = positions(4, 3, 16, torch.device("cpu")).view(4, 3, 16)

    assert torch.equal(wide[:, :3], narrow)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, "heads is 3: it must divide"), ({"width": 6}, "width is 6: it must be")],
)
def test_a_width_that_cannot_be_shared_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowTransformerBuilder(**options)
