"""What is wrong with a FluxFlow configuration is told at its line, with the nearest name, and all of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_pipeline.options import DataKeys, DatasetKeys, ModelKeys, OutputKeys, StepKeys, TransitionKeys
from fluxflow_pipeline.sections import keys_of
from fluxflow_registry.check.checker import check
from fluxflow_registry.errors import Problem, RecipeError, nearest
from fluxflow_registry.registry.registry import Registry

from .fluxflow import DATA, step, translated, whole

#: A configuration in which each kind of section has a place for one more key.
EVERYTHING = """\
model:
  # model
  vae_dim: 4
data:
  # data
  data_path: pictures
output:
  # output
  log_interval: 1
training:
  # training
  batch_size: 2
  pipeline:
    # pipeline
    datasets:
      some:
        # dataset
        type: local
        image_folder: pictures
    defaults:
      # defaults
      batch_size: 2
    steps:
      - name: one
        # step
        n_epochs: 1
        train_vae: true
        transition_on:
          # transition
          mode: epoch
        optimization:
          # optimization
          optimizers:
            # optimizers
            vae: {type: AdamW}
"""

PLACES = {
    "model": ModelKeys,
    "data": DataKeys,
    "output": OutputKeys,
    "training": StepKeys,
    "dataset": DatasetKeys,
    "defaults": StepKeys,
    "step": StepKeys,
    "transition": TransitionKeys,
}


def problems(folder: Path, text: str) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        translated(folder, text)
    return caught.value.problems


def slips() -> Iterator[tuple[str, str]]:
    for place, cls in PLACES.items():
        yield from ((place, key) for key in keys_of(cls))


@pytest.mark.parametrize(("place", "key"), [*slips()], ids=lambda value: value)
def test_every_misspelt_key_is_named_with_its_line_and_the_nearest_one(place: str, key: str, tmp_path: Path) -> None:
    wrong = key[0] + key[1:].replace("_", "", 1) + "x"
    line = next(n for n, each in enumerate(EVERYTHING.splitlines(), 1) if each.strip() == f"# {place}")
    indent = EVERYTHING.splitlines()[line - 1].split("#")[0]
    text = EVERYTHING.replace(f"{indent}# {place}\n", f"{indent}{wrong}: 1\n")

    told = problems(tmp_path, text)

    assert [str(problem.where) for problem in told] == [f"{tmp_path}/config.yaml:{line}:{len(indent) + 1}"]
    assert told[0].message.startswith(f"unknown key `{wrong}` in ")
    assert dict(told[0].notes)["nearest"] == nearest(wrong, [*dict(told[0].notes)["keys"].split(", "), key])


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("training: {train_vae: true, kl_beta: high}\n", "1:38", "`kl_beta` of `training`: expected a number, not the"),
        ("training: {train_vae: true, kl_beta: -1}\n", "1:38", "`kl_beta` of `training`:"),
        ("training: {train_vae: 1}\n", "1:23", "`train_vae` of `training`: expected true or false, not the number `1`"),
        ("training: {n_epochs: 0, train_vae: true}\n", "1:22", "`n_epochs` of `training`:"),
        ("training: {train_vea: true}\n", "1:12", "unknown key `train_vea` in `training`"),
        ("training: {}\n", "1:11", "step `training` trains nothing: none of its modes is true"),
        ("traning: {}\n", "1:1", "unknown key `traning` in a configuration"),
        ("training: 7\n", "1:11", "`training` is a mapping, not the number `7`"),
        ("steps: []\ntraining: {train_vae: true}\n", "1:1", "unknown key `steps` in a configuration"),
        ("training: {pipeline: 3}\n", "1:22", "`pipeline` is a mapping with `steps`, not the number `3`"),
        ("training: {pipeline: {steps: []}}\n", "1:30", "`pipeline` needs `steps`: a list of steps"),
        ("training: {pipeline: {mode: parallel, steps: []}}\n", "1:29", "`mode` of a pipeline is `sequential`"),
        ("model_checkpoint: old.safetensors\ntraining: {train_vae: true}\n", "1:19", "`model_checkpoint`: weights of"),
        ("training: {train_vae: true, max_steps: 0}\n", "1:40", "`max_steps` of `training`:"),
        ("training: {train_vae: true}\nmodel: {channels: 4}\n", "2:9", "unknown key `channels` in `model`"),
    ],
)
def test_a_wrong_value_is_told_at_its_place(text: str, where: str, message: str, tmp_path: Path) -> None:
    told = [problem for problem in problems(tmp_path, whole(text)) if str(problem.where).endswith(where)]

    assert [problem.message for problem in told if problem.message.startswith(message)]


@pytest.mark.parametrize(
    ("keys", "message", "notes"),
    [
        ("freeze: [decoder]", "`freeze` of step `one` names `decoder`, which is no model", "discriminator"),
        ("freeze: [expander, expander]", "`freeze` of step `one` names `expander` twice", ""),
        ("freeze: [compressor, expander]", "step `one` freezes `compressor` and `expander`, which `train_vae` is", ""),
        ("gan_training: true\nfreeze: [D_img]", "step `one` freezes `discriminator`, which `gan_training` is", ""),
        ("gan_training: true\nfreeze: [expander]", "step `one` freezes `expander`, which alone learns from", ""),
        ("train_diff: true\nfreeze: [flow]", "step `one` freezes `flow_processor`, which `train_diff` is to", ""),
        ("transition_on: {mode: loss_threshold, threshold: 1}", "`transition_on` of step `one` needs `metric`", ""),
        (
            "transition_on: {mode: loss_threshold, metric: vae_lost, threshold: 1}",
            "`transition_on` of step `one` watches `vae_lost`, which is no metric of a transition",
            "vae_loss",
        ),
        (
            "transition_on: {mode: loss_threshold, metric: g_loss, threshold: 1}",
            "`transition_on` of step `one` watches `g_loss`, which the step does not log",
            "vae_loss, kl_loss",
        ),
        (
            "transition_on: {mode: loss_threshold, metric: vae_loss}",
            "`transition_on` of step `one` needs `threshold`",
            "",
        ),
        (
            "transition_on: {threshold: 1}",
            "`transition_on` of step `one` states `threshold`, which mode",
            "loss_threshold",
        ),
        ("transition_on: {mode: loss}", "`mode` of `transition_on` of step `one`: expected one of epoch", ""),
        ("cfg_dropout_prob: 0.1", "`cfg_dropout_prob` of step `one` needs `train_diff` or", ""),
        ("dataset: other", "`other` is no dataset of the pipeline", "images"),
        ("optimization: {optimizers: {vea: {}}}", "`optimizers` of step `one` names `vea`, which has none", "vae"),
        ("optimization: {optimizers: {vae: 1}}", "`vae` under `optimizers` of step `one` is a mapping, not", ""),
        ("optimization: {optimizer: {}}", "unknown key `optimizer` in `optimization` of step `one`", "optimizers"),
        ("optimization: {optim_sched_config: a.json}", "optimizers in a file of their own are not read", ""),
        ("duration_epochs: 3", "`duration_epochs` is a spelling of an earlier version", "n_epochs"),
        ("freeze_modules: {}", "`freeze_modules` is a spelling of an earlier version", "freeze: "),
        ("img_size: 32", "unknown key `img_size` in step `one`", "`data`"),
    ],
)
def test_a_rule_that_is_broken_is_told_with_what_helps(keys: str, message: str, notes: str, tmp_path: Path) -> None:
    told = problems(tmp_path, whole(step(keys, train_vae=True)))

    (problem,) = told
    assert problem.message.startswith(message)
    assert notes in " ".join(text for _, text in problem.notes)
    assert problem.where is not None
    assert "config.yaml:" in str(problem.where)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, n_epochs: 1}\n", "step `a` trains nothing"),
        ("- {n_epochs: 1, train_vae: true}\n", "step 1 needs `name`"),
        ("- {name: a, train_vae: true}\n", "step `a` needs `n_epochs`"),
        ("- {name: a, n_epoch: 3, train_vae: true}\n", "unknown key `n_epoch` in step `a`"),
        ("- {name: a, duration_epochs: 3, train_vae: true}\n", "`duration_epochs` is a spelling of an earlier version"),
        (
            "- {name: a, n_epochs: 1, train_vae: true}\n- {name: a, n_epochs: 1, train_vae: true}\n",
            "two steps are called",
        ),
        ("- a\n", "step 1 is described by a mapping, not the text `a`"),
        (
            "- {name: 3, n_epochs: 1, train_vae: true}\n",
            "step 1 needs `name`: a text by which files and messages call it",
        ),
        (
            "- {name: a, n_epochs: 1, gan_training: true, use_lpips: true}\n",
            "`use_lpips` of step `a` needs `train_vae`",
        ),
        (
            "- {name: a, n_epochs: 1, train_diff: true, train_spade: true}\n",
            "`train_spade` of step `a` needs `train_vae`",
        ),
    ],
)
def test_a_step_says_who_it_is_how_long_it_takes_and_what_it_trains(text: str, message: str, tmp_path: Path) -> None:
    listed = "".join(f"      {line}\n" for line in text.splitlines())

    (problem,) = problems(tmp_path, whole(f"training:\n  pipeline:\n    steps:\n{listed}"))

    assert problem.message.startswith(message)


def test_all_problems_come_in_one_report_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = step("freeze: [decoder]\nkl_beta: much\ntransition_on: {metrc: vae_loss}", train_vae=True)

    told = problems(tmp_path, f"modle: {{}}\n{whole(text)}")

    lines = [int((str(problem.where) or "").split(":")[1]) for problem in told]
    assert lines == sorted(lines)
    assert [problem.message.split("`")[1] for problem in told] == ["modle", "freeze", "kl_beta", "metrc"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{data_path: p, img_size: 100}", "pictures of 100 pixels: the sides of `images` are multiples of 16"),
        (
            "{data_path: p, img_size: 64, reduced_min_sizes: [32, 24]}",
            "pictures of 24 pixels: the sides of `images` are",
        ),
        ("{img_size: 64}", "`training` has no pictures to train on"),
        ("{use_webdataset: true, data_path: p}", "`use_webdataset` needs `webdataset_url`"),
        ("{use_webdataset: false, webdataset_url: a.tar}", "`data` needs `data_path`: where the pictures are"),
        ("{data_path: p, channels: 1}", "`channels` of `data`: expected one of 3"),
    ],
)
def test_data_that_cannot_be_trained_on_are_told(data: str, message: str, tmp_path: Path) -> None:
    told = problems(tmp_path, f"training: {{train_vae: true}}\ndata: {data}\n")

    assert [problem.message for problem in told if problem.message.startswith(message)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{type: local}", "dataset `some` needs `image_folder`"),
        ("{type: webdataset}", "dataset `some` needs `webdataset_url`"),
        ("{type: noise}", "`type` of dataset `some`: expected one of local, webdataset"),
        ("{image_folder: p, batch_sise: 3}", "unknown key `batch_sise` in dataset `some`"),
        ("3", "dataset `some` is described by a mapping, not the number `3`"),
    ],
)
def test_a_named_dataset_says_where_its_pictures_are(entry: str, message: str, tmp_path: Path) -> None:
    text = step("", train_vae=True).replace("    steps:", f"    datasets: {{some: {entry}}}\n    steps:")

    told = problems(tmp_path, f"{text}{DATA}")

    assert [problem.message for problem in told if problem.message.startswith(message)]


def test_a_default_dataset_must_be_there(tmp_path: Path) -> None:
    text = step("", train_vae=True).replace("    steps:", "    default_dataset: picturs\n    steps:")

    (problem,) = problems(tmp_path, text.replace("steps:", "datasets: {pictures: {image_folder: p}}\n    steps:"))

    assert problem.message == "`default_dataset` names the text `picturs`, which is no dataset"
    assert dict(problem.notes)["nearest"] == "pictures"


@pytest.mark.parametrize(
    ("keys", "where", "message"),
    [
        ("optimization:\n  optimizers:\n    vae: {type: AdmaW}", "9:25", "unknown optimizer `AdmaW`"),
        ("optimization:\n  optimizers:\n    vae: {lrr: 1}", "9:19", "unknown key `lrr` in optimizer `AdamW`"),
        ("optimization:\n  schedulers:\n    vae: {type: StepLR}", "9:18", "scheduler `StepLR` needs `step_size`"),
        ("optimization:\n  schedulers:\n    vae: {type: CosineLR}", "9:25", "unknown scheduler `CosineLR`"),
    ],
)
def test_what_the_recipe_gets_wrong_is_told_at_the_line_of_the_configuration(
    keys: str, where: str, message: str, tmp_path: Path, everything: Registry
) -> None:
    made = translated(tmp_path, whole(step(keys, train_vae=True)))

    with pytest.raises(RecipeError) as caught:
        check("config.yaml", everything, (), made.root)

    (problem,) = caught.value.problems
    assert problem.message.startswith(message)
    assert str(problem.where) == f"{tmp_path}/config.yaml:{where}"


@given(st.text(max_size=400))
@settings(max_examples=150)
def test_no_file_whatever_ends_in_anything_but_a_recipe_or_a_report(text: str) -> None:
    with TemporaryDirectory() as folder, pytest.raises(RecipeError):
        translated(Path(folder), text)
