"""Metrics are displayed by the names that the field uses, and never two by one name."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fluxflow_observers.console.observer import Console
from fluxflow_observers.formatting import displayed, short_names

METRICS = st.sampled_from(
    ["vae_loss", "flow_loss", "discriminator_loss", "vae/kl", "vae2/kl", "vae/hinge_generator", "vae/l1", "KL", "G"]
)


def test_the_losses_of_a_vae_against_a_discriminator_come_in_the_order_of_fluxflow() -> None:
    metrics = {
        "discriminator_loss": 0.089,
        "discriminator/hinge_discriminator": 0.08,
        "discriminator/r1": 0.1,
        "discriminator/lr": 1e-4,
        "vae_loss": 0.0234,
        "vae/lpips": 0.0812,
        "vae/hinge_generator": 0.156,
        "vae/kl": 12.45,
        "vae/kl/weight": 1e-3,
        "vae/grad_norm": 1.0,
    }

    assert list(displayed(metrics, {}).items()) == [
        ("VAE", 0.0234),
        ("KL", 12.45),
        ("G", 0.156),
        ("D", 0.089),
        ("LPIPS", 0.0812),
        ("discriminator/hinge_discriminator", 0.08),
        ("discriminator/r1", 0.1),
    ]


def test_two_metrics_that_would_share_a_short_name_keep_their_own() -> None:
    names = short_names(["vae/kl", "other/kl", "vae/lpips", "flow_loss"], {})

    assert names == {"vae/kl": "vae/kl", "other/kl": "other/kl", "vae/lpips": "LPIPS", "flow_loss": "Flow"}


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({"vae/l1": "L1"}, {"vae/l1": "L1", "vae_loss": "VAE"}),
        ({"vae/l1": "VAE"}, {"vae/l1": "VAE", "vae_loss": "vae_loss"}),
        ({"vae_loss": "total"}, {"vae/l1": "vae/l1", "vae_loss": "total"}),
        ({"vae_loss": "X", "vae/l1": "X"}, {"vae/l1": "vae/l1", "vae_loss": "vae_loss"}),
    ],
)
def test_configured_names_extend_the_short_ones_and_take_precedence(
    configured: dict[str, str], expected: dict[str, str]
) -> None:
    assert short_names(expected, configured) == expected


@example({"vae_loss", "vae/hinge_generator", "G"}, {"vae_loss": "KL", "G": "KL"})
@given(st.sets(METRICS), st.dictionaries(METRICS, st.sampled_from(["KL", "A", "vae/l1"])))
def test_no_metric_is_lost_to_another_of_the_same_name(metrics: set[str], configured: dict[str, str]) -> None:
    names = short_names(sorted(metrics), configured)

    assert names.keys() == metrics
    assert len(set(names.values())) == len(metrics) or any(wish in metrics for wish in configured.values())


@pytest.mark.parametrize(("total", "loss"), [(0.5, 0.5), (math.nan, math.nan)])
def test_the_only_loss_of_an_update_is_not_shown_beside_its_total(total: float, loss: float) -> None:
    assert list(displayed({"flow_loss": total, "flow/velocity": loss}, {})) == ["Flow"]


def test_the_only_loss_is_shown_if_its_weight_makes_the_total_differ() -> None:
    assert displayed({"flow_loss": 1.0, "flow/velocity": 0.5}, {}) == {"Flow": 1.0, "flow/velocity": 0.5}


@pytest.mark.parametrize("names", [{"vae/l1": ""}, {"": "L1"}])
def test_an_empty_name_is_rejected(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="names"):
        Console(names=names)
