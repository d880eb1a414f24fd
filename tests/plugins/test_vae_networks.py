"""The autoencoder's two networks fit each other and start where training is easy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_vae.models import CompressorBuilder, ExpanderBuilder
from fluxflow_vae.networks import SelfAttention

options = st.fixed_dictionaries(
    {
        "latent_channels": st.integers(1, 6),
        "width": st.sampled_from([4, 8]),
        "depth": st.integers(0, 2),
        "patch": st.sampled_from([1, 2]),
        "downscale": st.sampled_from([2, 4, 8]),
        "activation": st.sampled_from(["silu", "relu", "leaky_relu"]),
        "attention": st.booleans(),
    }
)


@settings(max_examples=20, deadline=None)
@given(options, st.integers(1, 3), st.integers(1, 3))
def test_the_expander_gives_back_the_shape_that_the_compressor_took(
    chosen: dict[str, Any], rows: int, columns: int
) -> None:
    compressor, expander = CompressorBuilder(**chosen)(), ExpanderBuilder(**chosen)()
    image = torch.randn(2, 3, rows * chosen["downscale"], columns * chosen["downscale"])

    posterior = compressor(image)
    reconstruction = expander(posterior.mean)

    assert posterior.mean.shape == (2, chosen["latent_channels"], rows, columns)
    assert posterior.logvar.shape == posterior.mean.shape
    assert reconstruction.shape == image.shape


@settings(max_examples=10, deadline=None)
@given(options)
def test_every_weight_of_the_autoencoder_learns(chosen: dict[str, Any]) -> None:
    compressor, expander = CompressorBuilder(**chosen)(), ExpanderBuilder(**chosen)()
    posterior = compressor(torch.randn(2, 3, 16, 16))

    (expander(posterior.mean + posterior.logvar).square().mean()).backward()

    weights = [*compressor.named_parameters(), *expander.named_parameters()]
    assert not [name for name, weight in weights if weight.grad is None]


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
def test_attention_starts_as_the_identity(build: Any) -> None:
    network = build(attention=True)()
    (layer,) = [one for one in network.body if isinstance(one, SelfAttention)]
    x = torch.randn(2, layer.out.in_channels, 3, 4)

    before = layer(x)
    torch.nn.init.normal_(layer.out.weight)
    after = layer(x)

    assert torch.equal(before, x)
    assert not torch.allclose(after, x)


def test_latent_rms_follows_the_mean_in_training_and_rests_in_evaluation() -> None:
    compressor: Any = CompressorBuilder(width=4)()
    torch.nn.init.constant_(compressor.mean.bias, 3.0)
    torch.nn.init.zeros_(compressor.mean.weight)
    image = torch.randn(1, 3, 4, 4)

    for _ in range(800):
        compressor(image)
    followed = compressor.latent_rms.clone()
    compressor.eval()(image)

    assert abs(followed - 3.0) < 0.01
    assert torch.equal(compressor.latent_rms, followed)
    assert "latent_rms" in compressor.state_dict()


@pytest.mark.parametrize("build", [CompressorBuilder, ExpanderBuilder])
@pytest.mark.parametrize("downscale", [0, 3, 6, 1])
def test_a_downscale_that_halvings_cannot_reach_is_refused(build: Any, downscale: int) -> None:
    with pytest.raises(ValueError, match="downscale is"):
        build(downscale=downscale)
