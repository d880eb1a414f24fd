"""The commands that only read: listing, describing, validating, explaining, the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from fluxflow_registry.check import check
from fluxflow_registry.cli import describe, explain, listing, main, schema
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.registry import Registry, load

RECIPES = sorted(Path("recipes").glob("*.yaml")) or sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
DEFAULT = Path(__file__).parents[2] / "recipes" / "vae_gan_flow.yaml"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load()


def command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Exit code, results and messages of `fluxflow-run`."""
    with pytest.raises(SystemExit) as left:
        main.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_the_listing_names_every_plugin_and_component(registry: Registry) -> None:
    text = listing.listing(registry, None)

    assert "  vae          fluxflow-registry" in text
    for kind in KINDS:
        for name in registry.names(kind):
            assert f"  {name}" in text


@pytest.mark.parametrize("stated", ["value", "values"])
def test_the_vocabulary_says_what_each_value_is_and_needs(capsys: pytest.CaptureFixture[str], stated: str) -> None:
    code, out, _ = command(capsys, "--list-plugins", stated)

    assert code == 0
    assert "needs latent, expander" in out
    assert "PROVIDED BY THE ENGINE" in out
    assert "LOSSES" not in out


def test_an_unknown_kind_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "--list-plugins", "lose")

    assert (code, out) == (2, "")
    assert "`lose` is no kind of component" in err
    assert "nearest  loss" in err


def test_the_listing_as_json_holds_the_provenance_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = command(capsys, "--list-plugins", "--json")

    data = json.loads(out)
    kl = next(c for c in data["components"] if (c["kind"], c["name"]) == ("loss", "kl"))
    assert kl["needs"] == ["posterior"]
    assert kl["distribution"] == "fluxflow-registry"
    assert all(plugin["error"] is None for plugin in data["plugins"])


def test_a_description_has_doc_options_bounds_needs_origin_and_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--describe", "kl")

    assert code == 0
    for words in (
        "KL divergence of q(z|x)",
        "free_bits = 0.0  (a number, >= 0)",
        "Nats that each element (or channel) may carry at no cost.",
        "every loss also takes  weight, warmup, every, detach, with  (weight 0.001 by default)",
        "needs     posterior",
        "fluxflow_vae/losses.py:",
        "kl: {free_bits: 0.0, free_bits_per: element, reduction: mean}",
    ):
        assert words in out


def test_a_name_of_several_kinds_is_described_for_each_and_a_kind_may_be_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, both, _ = command(capsys, "--describe", "velocity")
    _, one, _ = command(capsys, "--describe", "value:velocity")
    code, _, err = command(capsys, "--describe", "velocitty")

    assert "loss `velocity`" in both
    assert "value `velocity`" in both
    assert "loss `velocity`" not in one
    assert code == 2
    assert "no component is called `velocitty`" in err
    assert "velocity" in err


def components(registry: Registry) -> list[tuple[str, str]]:
    return [(kind, name) for kind in KINDS for name in registry.names(kind)]


PASTED = components(load())


@pytest.mark.parametrize(("kind", "name"), PASTED, ids=lambda value: str(value))
def test_the_yaml_of_a_description_is_taken_by_a_recipe_as_it_is(
    registry: Registry, tmp_path: Path, kind: str, name: str
) -> None:
    line = describe.paste(registry.components[kind][name])
    (label, options), *_ = YAML(typ="safe").load(line).items()
    needed = [row["name"] for row in describe.options(registry.components[kind][name]) if "default" not in row]
    if needed:
        assert all(f"{option}: ..." in line for option in needed)
        return
    place = {
        "value": "values",
        "metric": "steps.vae_gan.evaluate.autoencoder.metrics",
        "model": "models",
        "dataset": "datasets",
        "observer": "observers",
    }.get(kind)
    path = (
        f"{place}.{label}"
        if place
        else {"sampler": "sampler", "transition": "steps.vae_gan.until"}.get(kind, f"steps.vae_gan.updates.vae.{kind}")
    )
    if kind == "loss":  # in an update that trains what the loss can move
        update = {
            "hinge_discriminator": "vae_gan.updates.discriminator",
            "r1": "vae_gan.updates.discriminator",
            "velocity": "flow.updates.flow",
        }.get(name, "vae_gan.updates.vae")
        path = f"steps.{update}.losses.{label}"

    check(DEFAULT, registry, [f"{path}={json.dumps(options)}"])


def test_explain_shows_order_gradients_reuse_and_cuts_of_the_gan_step(registry: Registry) -> None:
    text = explain.explain(check(DEFAULT, registry))

    step = " ".join(text.split("STEP vae_gan")[1].split("STEP flow")[0].split())
    for words in (
        "update discriminator: trains discriminator (AdamW)",
        "posterior(image, compressor) keeps its graph for vae for latent",
        "* fake_logits(reconstruction, discriminator) [discriminator] for loss hinge_discriminator",
        "=* reconstruction(latent, expander) [compressor, expander]",
        "hinge_generator(fake_logits), cut at latent -> expander",
        "r1(image, discriminator), every 16 batches -> discriminator",
    ):
        assert words in step


def test_explain_as_json_and_as_mermaid_tell_the_same_edges(registry: Registry) -> None:
    checked = check(DEFAULT, registry)

    data = explain.explain_data(checked)
    diagram = explain.mermaid(checked)

    for number, step in enumerate(data["steps"], 1):
        for turn, update in enumerate(step["updates"], 1):
            for value in update["values"]:
                assert f's{number}u{turn}_{value["name"]}("{value["name"]}")' in diagram
    assert "s2u2_reconstruction ==> s2u2_fake_logits" in diagram
    assert "s2u1_reconstruction --> s2u1_fake_logits" in diagram
    assert diagram.count("subgraph") == diagram.count("end\n")


def test_validate_tells_what_is_trained_frozen_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, DEFAULT, "--validate")

    assert (code, err) == (0, "")
    assert "is valid: recipe `vae_gan_flow`, 3 steps" in out
    assert "discriminator: trains discriminator; losses hinge_discriminator, r1" in out
    assert "frozen: compressor" in out
    assert "measures held_out: shapes_judge over 256 samples" in out


def test_problems_as_json_have_message_place_and_notes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(DEFAULT.read_text().replace("  mse: {weight: 5.0}", "  msee: {weight: 5.0}", 1))

    code, out, _ = command(capsys, tmp_path / "bad.yaml", "--validate", "--json")

    (problem,) = json.loads(out)["problems"]
    assert code == 2
    assert problem["message"].startswith("unknown loss `msee`")
    assert problem["where"].endswith("bad.yaml:59:11")
    assert problem["notes"]["nearest"].startswith("mse ")


def test_a_command_without_a_recipe_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys)

    assert code == 2
    assert "a recipe is needed, as in `fluxflow-run recipes/vae_gan_flow.yaml`" in err


def test_the_schema_is_a_schema_and_takes_our_recipes(registry: Registry) -> None:
    made = schema.recipe_schema(registry)

    jsonschema.Draft202012Validator.check_schema(made)
    for recipe in RECIPES:
        jsonschema.validate(YAML(typ="safe").load(recipe), made)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("models.compressor", {"type": "compressor", "widht": 3}),
        ("models.compressor", {"type": "compressor", "width": 0}),
        ("models.compressor", {"type": "compressor", "width": "3"}),
        ("models.compressor", {"type": "compresser"}),
        ("steps.flow.batch_sise", 3),
        ("steps.flow.precision", "fp8"),
        ("steps.flow.updates.flow.optimizer", {"type": "AdamW", "lr": -1}),
        ("steps.flow.updates.flow.losses.velocity", {"type": "velocity", "weigth": 1}),
        ("sampler", {"type": "euler", "steps": 1.5}),
        ("recipe", 2),
    ],
)
def test_the_schema_refuses_what_the_check_refuses(registry: Registry, path: str, value: Any) -> None:
    recipe = YAML(typ="safe").load(DEFAULT)
    *parents, last = path.split(".")
    place = recipe
    for parent in parents:
        place = place[parent]
    place[last] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, schema.recipe_schema(registry))
