"""Checkpoints are whole or not there: what is saved comes back, and what is damaged is named."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from fluxflow_registry.errors import RunError
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.store import pack, read_model, unpack, write_model, write_tensors

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=12,
)


@given(plain)
def test_any_plain_state_comes_back_exactly_through_json(state: Any) -> None:
    packed, tensors = pack(state, "a component")

    found = unpack(json.loads(json.dumps(packed)), tensors)

    assert found == state
    assert repr(found) == repr(state)


def test_the_state_of_an_optimizer_comes_back_exactly() -> None:
    weights = torch.nn.Parameter(torch.randn(3, 3))
    optimizer = torch.optim.AdamW([weights], fused=True)
    weights.grad = torch.randn(3, 3)
    optimizer.step()
    state = optimizer.state_dict()

    packed, tensors = pack(state, "an optimizer")
    found = unpack(json.loads(json.dumps(packed)), tensors)

    assert found["param_groups"] == state["param_groups"]
    for key, value in state["state"][0].items():
        assert torch.equal(found["state"][0][key], value)


def test_a_state_that_cannot_be_saved_is_refused_naming_component_and_place() -> None:
    with pytest.raises(RunError, match=r"the state of my balancer contains `a\.0` of type set"):
        pack({"a": [{1}]}, "my balancer")


def test_tied_weights_and_numbers_without_dimensions_come_back(tmp_path: Path) -> None:
    shared = torch.randn(4)
    state = {"model": {"net": {"a": shared, "b": shared, "c": torch.tensor(3.0), "d": torch.tensor(7)}}}

    folder = store.save(tmp_path, checkpoints.name_of(1, "step", "due"), state, {"x": 0.1})
    found, meta = store.load(folder)

    for key, value in state["model"]["net"].items():
        assert torch.equal(found["model"]["net"][key], value)
        assert found["model"]["net"][key].dtype == value.dtype
    assert meta == {"x": 0.1}


def test_the_newest_comes_first_and_passing_ones_are_retired(tmp_path: Path) -> None:
    for batch, end in ((10, False), (20, True), (20, False), (30, False), (40, False)):
        store.save(tmp_path, checkpoints.name_of(batch, "vae", "end" if end else "due"), {}, {})

    checkpoints.retain(tmp_path, 2, tmp_path / "000000040-vae")

    found = [(f.run_batch, f.kind == "end") for f in checkpoints.listing(tmp_path)]
    assert found == [(40, False), (30, False), (20, True)]


def test_a_failed_save_leaves_the_one_before_and_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(tmp_path, checkpoints.name_of(1, "s", "due"), {"model": {"a": {"w": torch.ones(3)}}}, {})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="cannot write the checkpoint: No space left on device"):
        store.save(tmp_path, checkpoints.name_of(2, "s", "due"), {"model": {"a": {"w": torch.ones(3)}}}, {})

    assert [f.run_batch for f in checkpoints.listing(tmp_path)] == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000001-s"]


def test_a_disk_that_is_full_for_weights_is_reported_as_full(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write the checkpoint: .*File too large"):
            store.save(tmp_path, checkpoints.name_of(2, "s", "due"), {"model": {"a": {"w": torch.ones(3000)}}}, {})
        with pytest.raises(RunError, match=r"cannot write the model: .*File too large"):
            write_model(tmp_path / "net", {}, {"w": torch.ones(3000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert checkpoints.listing(tmp_path) == []
    assert list((tmp_path / "net").iterdir()) == []


def test_tensors_whose_paths_look_alike_stay_apart_and_strange_keys_are_refused() -> None:
    one, two = torch.ones(2), torch.zeros(2)
    for state in ({0: one, "0": two}, {"a.b": one, "a": {"b": two}}):
        packed, tensors = pack(state, "x")
        found = unpack(json.loads(json.dumps(packed)), tensors)
        first, second = list(found.values())
        assert torch.equal(first, one)
        assert torch.equal(second["b"] if isinstance(second, dict) else second, two)

    with pytest.raises(RunError, match="has a key of type tuple in"):
        pack({(1, 2): one}, "x")


@pytest.mark.parametrize("name", ["../escape.safetensors", "/etc/passwd", "a/b.safetensors", "x.pkl"])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = store.save(tmp_path, checkpoints.name_of(1, "s", "due"), {}, {})
    manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
    manifest["files"][name] = manifest["files"].pop(checkpoints.STATE)
    manifest["digest"] = checkpoints.own_digest(manifest)
    (folder / checkpoints.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(RunError, match="which is not a file of a checkpoint"):
        store.load(folder)


def test_a_checkpoint_of_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
    folder = store.save(tmp_path, checkpoints.name_of(1, "s", "due"), {}, {})
    manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
    manifest["format"] = 99
    manifest["digest"] = checkpoints.own_digest(manifest)
    (folder / checkpoints.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(RunError, match="the checkpoint has format 99, but this version reads format 1"):
        store.load(folder)


def test_the_file_of_a_model_says_what_it_is_to_any_reader(tmp_path: Path) -> None:
    config = {"type": "conv", "width": 8, "name": "\u00e9"}
    weights = {"w": torch.ones(3, dtype=torch.bfloat16), "empty": torch.ones(0, 2), "n": torch.tensor(2)}

    write_model(tmp_path / "net", config, weights)
    with safe_open(tmp_path / "net" / "model.safetensors", "pt") as file:
        about = file.metadata()
        shapes = {name: tuple(file.get_tensor(name).shape) for name in weights}

    assert about["format"] == "pt"
    assert about["model"] == "net"
    assert json.loads(about["config"]) == config
    assert (about["torch"], about["fluxflow-registry"]) == (version("torch"), version("fluxflow-registry"))
    assert shapes == {"w": (3,), "empty": (0, 2), "n": ()}
    read, found = read_model(tmp_path / "net")
    assert read == config
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_model_is_written_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("1", "2"):
        write_model(tmp_path / folder / "net", {"type": "conv"}, {"w": torch.ones(3)})

    first, second = ((tmp_path / folder / "net" / "model.safetensors").read_bytes() for folder in ("1", "2"))
    assert first == second


def test_a_model_without_a_description_is_read_as_ever(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"w": torch.ones(3)})
    (tmp_path / "config.json").write_text("{}")

    config, weights = read_model(tmp_path)

    assert config == {}
    assert torch.equal(weights["w"], torch.ones(3))
