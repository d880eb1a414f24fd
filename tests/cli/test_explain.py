"""`--validate` and `--explain` tell what a recipe will do, without doing it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ..recipes import DEFAULT, SHIPPED, TINY, steps
from .conftest import Answer

Call = Callable[..., Answer]

#: The default recipe's GAN step, as far as it follows from the losses and not from the science.
GAN = """\
STEP vae_gan: on each batch of `shapes` (image, caption)

  update discriminator: trains discriminator (AdamW)
       instance_noise(step_batch)                                                                      for real_logits, fake_logits
     * real_logits(image, discriminator, instance_noise, generator)           [discriminator]          for loss hinge_discriminator
       posterior(image, compressor)                                           keeps its graph for vae  for latent
       latent(posterior, generator)                                           keeps its graph for vae  for reconstruction
       reconstruction(latent, expander)                                       keeps its graph for vae  for fake_logits
     * fake_logits(reconstruction, discriminator, instance_noise, generator)  [discriminator]          for loss hinge_discriminator
"""  # noqa: E501
VAE = """
    =  instance_noise(step_batch)                                                                     for fake_logits
    =* posterior(image, compressor)                                           [compressor]            for latent, loss kl
    =* latent(posterior, generator)                                           [compressor]            for reconstruction
    =* reconstruction(latent, expander)                                       [compressor, expander]  for fake_logits, loss mse, loss l1
     * fake_logits(reconstruction, discriminator, instance_noise, generator)  [compressor, expander]  for loss hinge_generator
"""  # noqa: E501


def test_a_valid_recipe_is_summarized_on_a_few_lines(call: Call) -> None:
    reported = call("--validate", DEFAULT)

    assert reported.code == 0
    assert reported.err == ""
    assert reported.out.startswith(f"{DEFAULT} is valid: recipe `vae_gan_flow`, 3 steps\n\nstep 1: vae_warmup (")
    assert "\nstep 2: vae_gan after vae_warmup (" in reported.out
    assert "    discriminator: trains discriminator; losses hinge_discriminator, r1\n" in reported.out
    assert "    frozen: compressor\n" in reported.out
    assert "    evaluates held_out: shapes_judge over 256 samples of `held_out`" in reported.out


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(call: Call, path: Path) -> None:
    assert call("--validate", path).code == 0


def test_a_valid_recipe_as_json(call: Call) -> None:
    data = json.loads(call("--validate", DEFAULT, "--json").out)

    assert data["valid"] is True
    assert [(step["name"], step["after"]) for step in data["steps"]] == [
        ("vae_warmup", None),
        ("vae_gan", "vae_warmup"),
        ("flow", "vae_gan"),
    ]
    assert data["steps"][1]["updates"] == {"discriminator": ["discriminator"], "vae": ["compressor", "expander"]}


def test_the_plan_tells_what_is_reused_and_where_gradients_flow(call: Call) -> None:
    reported = call("--explain", DEFAULT)

    assert reported.code == 0
    assert reported.out.startswith(
        "STEPS\n  start -> vae_warmup\n  vae_warmup -> vae_gan\n  vae_gan -> flow\n\nSTEP vae_warmup"
    )
    assert GAN in reported.out
    assert VAE in reported.out
    assert re.search(
        r"\n    \+ [\d.]+ \* hinge_generator\(fake_logits\), detached at latent -> expander\n", reported.out
    )
    assert re.search(
        r"\n    \+ [\d.]+ \* r1\(image, discriminator\), every 16 batches -> discriminator\n", reported.out
    )
    assert "\n  frozen: compressor\n" in reported.out
    assert reported.out.endswith(
        "A value marked * carries gradient to the models in brackets; one marked = is reused.\n"
    )


def test_without_the_cut_the_generator_s_loss_reaches_the_compressor(call: Call) -> None:
    cut = "steps.vae_gan.updates.vae.losses.hinge_generator.detach"

    reported = call("--explain", DEFAULT, "--set", f"{cut}=[]")

    assert re.search(r"hinge_generator\(fake_logits\) -> compressor, expander\n", reported.out)


def test_the_plan_as_json(call: Call) -> None:
    data = json.loads(call("--explain", DEFAULT, "--json").out)

    gan = next(step for step in data["steps"] if step["name"] == "vae_gan")
    discriminator, vae = gan["updates"]
    assert {value["name"]: value["reused"] for value in vae["values"]} == {
        "instance_noise": True,
        "posterior": True,
        "latent": True,
        "reconstruction": True,
        "fake_logits": False,
    }
    assert discriminator["values"][2] == {
        "name": "posterior",
        "needs": {"image": "image", "compressor": "compressor"},
        "requested_by": ["latent"],
        "gradient": [],
        "reused": False,
    }
    generator = next(loss for loss in vae["losses"] if loss["name"] == "hinge_generator")
    assert generator == {
        "name": "hinge_generator",
        "needs": {"fake_logits": "fake_logits"},
        "detach": ["latent"],
        "reaches": ["expander"],
    }


def test_late_starts_are_reported(call: Call) -> None:
    condition = "{type: loss_threshold, metric: vae_loss, threshold: 0.05}"
    place = "steps.vae_gan.updates"
    late = [
        "--set",
        f"{place}.discriminator.start=500",
        "--set",
        f"{place}.vae.losses.hinge_generator.start={condition}",
    ]

    valid = call("--validate", DEFAULT, *late)
    reported = call("--explain", DEFAULT, *late)
    data = json.loads(call("--explain", DEFAULT, "--json", *late).out)

    assert "losses hinge_discriminator, r1; starts at batch 500\n" in valid.out
    assert "mse, l1, kl, hinge_generator; hinge_generator starts once loss_threshold of vae_loss is met\n" in valid.out
    assert "update discriminator: trains discriminator (AdamW), starts at batch 500\n" in reported.out
    assert (
        "hinge_generator(fake_logits), starts once loss_threshold of vae_loss is met, detached at latent -> expander\n"
        in reported.out
    )
    discriminator, vae = next(step for step in data["steps"] if step["name"] == "vae_gan")["updates"]
    assert discriminator["start"] == 500
    assert [loss.get("start") for loss in vae["losses"]] == [None, None, None, "loss_threshold"]


def test_accumulation_and_the_samples_of_a_step_of_the_optimizer_are_reported(call: Call) -> None:
    settings = ["--set", "steps.flow.accumulate=4", "--set", "steps.flow.batch_size=16"]

    valid = call("--validate", DEFAULT, *settings)
    reported = call("--explain", DEFAULT, *settings)
    data = json.loads(call("--explain", DEFAULT, "--json", *settings).out)

    averaged = "  the gradients of 4 batches of 16 are averaged: each optimizer step uses 64 samples\n"
    assert "batches of 16, 4 per optimizer step" in valid.out
    assert f"STEP flow: on each batch of `shapes` (image, caption)\n{averaged}" in reported.out
    assert reported.out.count("averaged") == valid.out.count("per optimizer step") == 1
    flow = next(step for step in data["steps"] if step["name"] == "flow")
    assert (flow["batch_size"], flow["accumulate"], flow["effective_batch_size"]) == (16, 4, 64)


def test_siblings_are_reported_with_their_parent(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(steps("a", "b", "c", c="a"))

    reported = call("--explain", "r.yaml")

    assert reported.out.startswith("STEPS\n  start -> a\n  a -> b\n  a -> c\n")


NODE = r"s\d+(?:u\d+(?:_|loss_)\w+)?"
LINES = (
    r"flowchart LR",
    r'  subgraph s\d+\["\w+"\]',
    r'    subgraph s\d+u\d+\["\w+"\]',
    rf'      {NODE}(?:\("\w+"\)|\[/"\w+"/\]|\{{\{{"\w+"\}}\}})',
    rf"      {NODE} (?:-->|==>) {NODE}",
    r"    end",
    r"  end",
    r"  s\d+ --> s\d+",
)


@pytest.mark.parametrize("name", ["default", "awkward"])
def test_the_diagram_is_a_flowchart_in_which_every_edge_has_its_nodes(call: Call, tmp_path: Path, name: str) -> None:
    awkward = steps("end", "step", "1", step="end").replace("  vae:", "  end:").replace("shapes", "graph")
    awkward = awkward.replace("{type: graph}", "{type: shapes}").replace("      vae:", "      subgraph:")
    (tmp_path / "r.yaml").write_text(DEFAULT.read_text() if name == "default" else awkward)

    reported = call("--explain", "--mermaid", "r.yaml")

    assert reported.code == 0
    lines = reported.out.splitlines()
    assert all(any(re.fullmatch(line, text) for line in LINES) for text in lines)
    assert sum("subgraph" in line.split("[")[0] for line in lines) == sum(line.strip() == "end" for line in lines)
    nodes = {match[1] for line in lines if (match := re.match(r"\s+(?:subgraph )?(s\w+)[\[({]", line))}
    ends = [(e[1], e[2]) for line in lines if (e := re.match(r"\s+(s\w+) [-=]+> (s\w+)$", line))]
    assert ends
    assert {node for edge in ends for node in edge} <= nodes


def test_gradients_are_thick_arrows(call: Call) -> None:
    lines = call("--mermaid", DEFAULT).out.splitlines()

    assert "      s2u1_posterior --> s2u1_latent" in lines
    assert "      s2u2_posterior ==> s2u2_latent" in lines
    assert "  s1 --> s2" in lines


def test_neither_command_leaves_anything_behind(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY)

    for arguments in (["--validate"], ["--explain"], ["--mermaid"], ["--validate", "--json"]):
        assert call(*arguments, "r.yaml").code == 0

    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
