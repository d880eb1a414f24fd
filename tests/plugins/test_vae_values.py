"""Values between an image and its reconstructions: sampling, decoding, and the arguments of the expander."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_vae import values
from fluxflow_vae.networks import Posterior

from ..engine.conftest import changed, start, weights
from ..small import PLUGINS

MEAN = torch.full((2, 3, 4, 4), 0.5)
POSTERIOR = Posterior(MEAN, torch.zeros(2, 3, 4, 4))


class Recorder(nn.Module):
    """An expander that returns its arguments."""

    def forward(self, latent: Tensor, *, spade: bool | None = None, **others: Any) -> Any:
        return latent, others if spade is None else {"spade": spade, **others}


class Plain(nn.Module):
    """A third-party expander without conditioning; its `spade` is something else."""

    spade = "of its garden"

    def forward(self, latent: Tensor) -> Tensor:
        return 2 * latent


@pytest.mark.parametrize(("spade", "expected"), [(None, {}), (True, {"spade": True}), (False, {"spade": False})])
def test_a_reconstruction_switches_spade_only_if_the_recipe_does(spade: Any, expected: Any) -> None:
    latent, arguments = values.Reconstruction(spade=spade)(MEAN, Recorder())

    assert torch.equal(latent, MEAN)
    assert arguments == expected


def test_the_reconstruction_of_the_mean_does_not_sample() -> None:
    latent, arguments = values.reconstruction_mean(POSTERIOR, Recorder())

    assert torch.equal(latent, MEAN)
    assert arguments == {}


def test_the_context_is_the_latent_and_without_it_spade_is_off() -> None:
    latent, arguments = values.reconstruction_without_context(MEAN, Recorder())

    assert torch.equal(values.context(MEAN), latent)
    assert arguments == {"spade": False}


def test_a_prior_sample_is_decoded_from_normal_noise_of_the_generator() -> None:
    many = MEAN.repeat(50, 1, 4, 4)
    (z, arguments), (again, _), (other, _) = (
        values.prior_sample(many, Recorder(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )

    assert z.shape == (100, 3, 16, 16)
    assert float(z.mean()) == pytest.approx(0, abs=0.02)
    assert float(z.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(z, again)
    assert not torch.equal(z, other)
    assert arguments == {}


def test_a_conditioned_reconstruction_passes_the_vector_to_the_expander() -> None:
    vector = torch.randn(2, 5)

    _, arguments = values.conditioned_reconstruction(MEAN, vector, Recorder())

    assert arguments["vector"] is vector


def test_a_third_party_expander_without_spade_is_called_without_a_switch() -> None:
    plain = Plain()

    assert torch.equal(values.Reconstruction()(MEAN, plain), 2 * MEAN)
    assert torch.equal(values.Reconstruction(spade=False)(MEAN, plain), 2 * MEAN)
    assert torch.equal(values.reconstruction_without_context(MEAN, plain), 2 * MEAN)
    with pytest.raises(ValueError, match="the expander, a Plain, has no SPADE blocks to switch on"):
        values.Reconstruction(spade=True)(MEAN, plain)


RECIPE = """
recipe: 1
name: described
models:
  compressor: {type: compressor, latent_channels: 2, width: 8}
  expander: {type: expander, latent_channels: 2, width: 8, film_width: 16}
  text_encoder: {type: text_transformer, width: 16, depth: 1, heads: 2, table_size: 32}
datasets:
  shapes: {type: shapes, image_size: 16, length: 16}
values:
  described: {type: conditioned_reconstruction, with: {context_vector: pooled_text}}
steps:
  vae:
    dataset: shapes
    batch_size: 4
    updates:
      vae:
        trains: [compressor, expander, text_encoder]
        losses: {l1: {with: {reconstruction: described}}}
        optimizer: {type: AdamW, lr: 1.0e-2}
"""

POOLED = """
from fluxflow_registry import hookimpl

def pooled_text(text_embedding):
    "Mean of the text's tokens: [B, D]."
    return text_embedding.tokens.mean(dim=1)

@hookimpl
def fluxflow_register_values(register):
    register("pooled_text", pooled_text)
"""


def test_a_recipe_can_condition_the_expander_on_the_text_and_train_both(
    prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    (tmp_path / "pooled.py").write_text(POOLED)
    recipe = prove(RECIPE, using=load(PLUGINS, [tmp_path / "pooled.py"]))
    before = weights(build_models(recipe, torch.device("cpu")))

    run = start(recipe, tmp_path / "runs").run

    assert changed(before, run.models) == {"compressor", "expander", "text_encoder"}
    view = ObservedRun(run)
    batch = {"image": view.peek("shapes", 1)["image"].repeat(2, 1, 1, 1), "caption": ["a red circle", "a blue square"]}
    one, other = view.draw(["described"], batch)["described"]
    plain, same = view.draw(["reconstruction_mean"], batch)["reconstruction_mean"]
    assert torch.equal(plain, same)
    assert not torch.allclose(one, other, atol=1e-4)
