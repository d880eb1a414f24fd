"""A value, a model, a dataset, a transition and an observer of somebody else's do what the first-party ones do."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from fluxflow_registry.registry.discovery import load

from .conftest import MODULES, Installed

KINDS = {
    "edges": "value",
    "linear_expander": "model",
    "stripes": "dataset",
    "stalled": "transition",
    "journal": "observer",
}


def test_every_component_is_listed_with_its_distribution_and_version(installed: Installed) -> None:
    listed = installed.ask("fluxflow-run --list-plugins")

    rows = {row["name"]: row for row in listed["components"] if row["distribution"] == "fluxflow-own"}
    assert {name: row["kind"] for name, row in rows.items()} == {**KINDS, "echo": "loss"}
    assert {row["version"] for row in rows.values()} == {"2.3"}
    assert not any(plugin["error"] for plugin in listed["plugins"])


@pytest.mark.parametrize("name", MODULES)
def test_a_component_is_described_with_the_file_and_line_where_it_stands(installed: Installed, name: str) -> None:
    (described,) = installed.ask(f"fluxflow-run --describe {KINDS[name]}:{name}")

    file, _, line = described["where"].rpartition(":")
    source = (installed.target / file).read_text().splitlines()
    around = "\n".join(source[int(line) - 1 : int(line) + 1])
    assert file == f"own_{name}.py"
    assert "class " in around or "def " in around


def test_the_models_weights_move_and_the_gradient_comes_through_the_value(installed: Installed) -> None:
    """Only `edge_l1` weighs anything, and all of its gradient goes through `edges`."""
    checkpoints = sorted((installed.run / "checkpoints").iterdir())

    for name in ("expander", "compressor"):
        first, last = (load_file(folder / f"model.{name}.safetensors") for folder in (checkpoints[0], checkpoints[-1]))
        moved = [key for key in first if not torch.equal(first[key], last[key])]
        assert "weight" in moved if name == "expander" else moved
    losses = [metrics["vae/edge_l1"] for metrics in installed.metrics]
    assert sum(losses[-8:]) < sum(losses[:8])


def test_the_model_is_saved_with_its_own_architecture(installed: Installed) -> None:
    weights = load_file(installed.run / "final" / "expander" / "model.safetensors")

    assert {key: tuple(weight.shape) for key, weight in weights.items()} == {"weight": (4, 3, 4, 4), "bias": (3,)}


def test_the_batches_of_the_dataset_are_what_is_trained_on(installed: Installed) -> None:
    stripes = load((), [installed.target / "own_stripes.py"]).get("dataset", "stripes")
    assert stripes is not None
    images = stripes.factory(length=64)().batch(range(64), 0)["image"]

    seen = [metrics["vae/echo"] for metrics in installed.metrics]

    expected = float(images.square().mean())
    for epoch in range(len(seen) // 8):
        assert sum(seen[8 * epoch : 8 * epoch + 8]) / 8 == pytest.approx(expected, rel=1e-5)
    assert len(set(seen[:8])) == 8


def test_the_transition_ends_the_step_with_its_reason(installed: Installed) -> None:
    """A gain of 0.9 in two epochs is never reached: the step ends after the third of 20 epochs."""
    assert len(installed.metrics) == 3 * 8
    assert "vae/edge_l1 has not fallen below" in installed.printed


def test_the_observer_is_notified_of_the_evaluation_and_then_of_the_end_of_the_step(installed: Installed) -> None:
    reported = (installed.run / "reported.txt").read_text().splitlines()

    assert [line.split(":")[0] for line in reported] == ["vae, stripes", "vae is over"]
