"""Every problem of a FluxFlow configuration is reported at its line, with the nearest name, all in one report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_pipeline.config.keys import DataKeys, DatasetKeys, ModelKeys, OutputKeys, StepKeys, TransitionKeys
from fluxflow_registry.check.checker import check
from fluxflow_registry.commands import keys_of
from fluxflow_registry.errors import Problem, RecipeError, nearest
from fluxflow_registry.registry.registry import Registry

from .fluxflow import DATA, step, translated, whole

#: A configuration in which a comment marks a place for one more key of each section.
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


def misspellings() -> Iterator[tuple[str, str]]:
    for place, cls in PLACES.items():
        yield from ((place, key) for key in keys_of(cls))


@pytest.mark.parametrize(("place", "key"), [*misspellings()], ids=lambda value: value)
def test_every_misspelled_key_is_reported_with_its_line_and_the_nearest_name(
    place: str, key: str, tmp_path: Path
) -> None:
    wrong = key[0] + key[1:].replace("_", "", 1) + "x"
    line = next(n for n, each in enumerate(EVERYTHING.splitlines(), 1) if each.strip() == f"# {place}")
    indent = EVERYTHING.splitlines()[line - 1].split("#")[0]
    text = EVERYTHING.replace(f"{indent}# {place}\n", f"{indent}{wrong}: 1\n")

    found = problems(tmp_path, text)

    assert [str(problem.where) for problem in found] == [f"{tmp_path}/config.yaml:{line}:{len(indent) + 1}"]
    assert (found[0].code, found[0].subject) == ("unknown-key", wrong)
    assert found[0].choices is not None
    assert found[0].nearest == nearest(wrong, [*found[0].choices.available, key])


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("training: {train_vae: true, kl_beta: high}\n", "1:38", "`kl_beta` of `training` must be a number, got the"),
        ("training: {train_vae: true, kl_beta: -1}\n", "1:38", "`kl_beta` of `training` must be >= 0.0, got -1.0"),
        ("training: {train_vae: 1}\n", "1:23", "`train_vae` of `training` must be true or false, got the number `1`"),
        ("training: {n_epochs: 0, train_vae: true}\n", "1:22", "`n_epochs` of `training` must be >= 1, got 0"),
        ("training: {train_vea: true}\n", "1:12", "unknown key `train_vea` in `training`"),
        ("training: {}\n", "1:11", "step `training` trains nothing: none of its modes is true"),
        ("traning: {}\n", "1:1", "unknown key `traning` in the configuration"),
        ("training: 7\n", "1:11", "`training` must be a mapping, got the number `7`"),
        ("steps: []\ntraining: {train_vae: true}\n", "1:1", "unknown key `steps` in the configuration"),
        ("training: {pipeline: 3}\n", "1:22", "`pipeline` must be a mapping, got the number `3`"),
        ("training: {pipeline: {steps: []}}\n", "1:30", "`pipeline` needs `steps`: a list of steps"),
        ("training: {pipeline: {mode: parallel, steps: []}}\n", "1:29", "`mode` of `pipeline` must be `sequential`"),
        (
            "model_checkpoint: old.safetensors\ntraining: {train_vae: true}\n",
            "1:19",
            "`model_checkpoint` is not supported: weights of",
        ),
        ("training: {train_vae: true, max_steps: 0}\n", "1:40", "`max_steps` of `training` must be >= 1, got 0"),
        ("training: {train_vae: true}\nmodel: {channels: 4}\n", "2:9", "unknown key `channels` in `model`"),
    ],
)
def test_a_wrong_value_is_reported_at_its_location(text: str, where: str, message: str, tmp_path: Path) -> None:
    found = [problem for problem in problems(tmp_path, whole(text)) if str(problem.where).endswith(where)]

    assert [problem.message for problem in found if problem.message.startswith(message)]


@pytest.mark.parametrize(
    ("keys", "message", "notes"),
    [
        ("freeze: [decoder]", "`freeze` of step `one`: `decoder` is not a model", "discriminator"),
        ("freeze: [expander, expander]", "`freeze` of step `one` lists `expander` twice", ""),
        (
            "freeze: [compressor, expander]",
            "step `one` freezes `compressor` and `expander`, but `train_vae` trains",
            "",
        ),
        ("gan_training: true\nfreeze: [D_img]", "step `one` freezes `discriminator`, but `gan_training` trains", ""),
        (
            "gan_training: true\nfreeze: [expander]",
            "step `one` freezes `expander`, but with `train_vae` only the expander learns",
            "",
        ),
        ("train_diff: true\nfreeze: [flow]", "step `one` freezes `flow_processor`, but `train_diff` trains", ""),
        ("transition_on: {mode: loss_threshold, threshold: 1}", "`transition_on` of step `one` needs `metric`", ""),
        (
            "transition_on: {mode: loss_threshold, metric: vae_lost, threshold: 1}",
            "`transition_on` of step `one` watches `vae_lost`, which a transition cannot watch",
            "vae_loss",
        ),
        (
            "transition_on: {mode: loss_threshold, metric: g_loss, threshold: 1}",
            "`transition_on` of step `one` watches `g_loss`, which the step does not log",
            "available  kl_loss, vae_loss",
        ),
        (
            "transition_on: {mode: loss_threshold, metric: vae_loss}",
            "`transition_on` of step `one` needs `threshold`",
            "",
        ),
        (
            "transition_on: {threshold: 1}",
            "`transition_on` of step `one` sets `threshold`, which mode",
            "loss_threshold",
        ),
        ("transition_on: {mode: loss}", "`mode` of `transition_on` of step `one` must be one of epoch", ""),
        ("cfg_dropout_prob: 0.1", "`cfg_dropout_prob` of step `one` needs `train_diff` or", ""),
        ("dataset: other", "`other` is not a dataset of the pipeline", "images"),
        ("optimization: {optimizers: {vea: {}}}", "`optimizers` of step `one`: no model has the name `vea`", "vae"),
        ("optimization: {optimizers: {vae: 1}}", "`vae` in `optimizers` of step `one` must be a mapping, got", ""),
        ("optimization: {optimizer: {}}", "unknown key `optimizer` in `optimization` of step `one`", "optimizers"),
        (
            "optimization: {optim_sched_config: a.json}",
            "`optim_sched_config` names `a.json`: the file does not exist",
            "",
        ),
        ("epochs: 3", "`epochs` is a key of an earlier version", "n_epochs"),
        ("use_gan: true", "`use_gan` is a key of an earlier version", "gan_training: true"),
        ("duration_epochs: 3", "`duration_epochs` is a key of an earlier version", "n_epochs"),
        ("freeze_modules: {}", "`freeze_modules` is a key of an earlier version", "freeze: "),
        ("img_size: 32", "unknown key `img_size` in step `one`", "`data`"),
    ],
)
def test_a_broken_rule_is_reported_with_a_fix(keys: str, message: str, notes: str, tmp_path: Path) -> None:
    found = problems(tmp_path, whole(step(keys, train_vae=True)))

    (problem,) = found
    assert problem.message.startswith(message)
    assert notes in str(problem)
    assert problem.where is not None
    assert "config.yaml:" in str(problem.where)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, n_epochs: 1}\n", "step `a` trains nothing"),
        ("- {n_epochs: 1, train_vae: true}\n", "step 1 needs `name`"),
        ("- {name: a, train_vae: true}\n", "step `a` needs `n_epochs`"),
        ("- {name: a, n_epoch: 3, train_vae: true}\n", "unknown key `n_epoch` in step `a`"),
        ("- {name: a, duration_epochs: 3, train_vae: true}\n", "`duration_epochs` is a key of an earlier version"),
        (
            "- {name: a, n_epochs: 1, train_vae: true}\n- {name: a, n_epochs: 1, train_vae: true}\n",
            "two steps have the name",
        ),
        ("- a\n", "step 1 must be a mapping, got the string `a`"),
        (
            "- {name: 3, n_epochs: 1, train_vae: true}\n",
            "`name` of step 1 must be a string with letters or digits, got the number `3`",
        ),
        (
            "- {name: a, n_epochs: 1, train_spade: true}\n",
            "`train_spade` of step `a` needs `train_vae` or `gan_training`",
        ),
        (
            "- {name: a, n_epochs: 1, train_diff: true, train_spade: true}\n",
            "`train_spade` of step `a` needs `train_vae`",
        ),
    ],
)
def test_a_step_needs_a_name_a_length_and_a_mode(text: str, message: str, tmp_path: Path) -> None:
    listed = "".join(f"      {line}\n" for line in text.splitlines())

    (problem,) = problems(tmp_path, whole(f"training:\n  pipeline:\n    steps:\n{listed}"))

    assert problem.message.startswith(message)


def test_two_conflicts_of_one_key_are_both_reported(tmp_path: Path) -> None:
    keys = "gan_training: true\nfreeze: [discriminator, expander]"

    found = problems(tmp_path, whole(step(keys, train_vae=True)))

    assert [(problem.code, problem.subject) for problem in found] == [
        ("conflict", "gan_training"),
        ("conflict", "expander"),
    ]


def test_all_problems_are_one_report_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = step("freeze: [decoder]\nkl_beta: much\ntransition_on: {metrc: vae_loss}", train_vae=True)

    found = problems(tmp_path, f"modle: {{}}\n{whole(text)}")

    lines = [int((str(problem.where) or "").split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    assert [problem.subject for problem in found] == ["modle", "decoder", "kl_beta", "metrc"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "{data_path: p, img_size: 100}",
            "dataset `images` has images of 100 pixels, but their sides must",
        ),
        (
            "{data_path: p, img_size: 64, reduced_min_sizes: [32, 24]}",
            "dataset `images` has images of 24 pixels, but their",
        ),
        ("{img_size: 64}", "`training` has no images to train on"),
        ("{use_webdataset: false, webdataset_url: a.tar}", "`data` needs `data_path`: where the images are"),
        ("{data_path: p, channels: 1}", "`channels` of `data` must be one of 3"),
    ],
)
def test_data_that_cannot_be_trained_on_are_rejected(data: str, message: str, tmp_path: Path) -> None:
    found = problems(tmp_path, f"training: {{train_vae: true}}\ndata: {data}\n")

    assert [problem.message for problem in found if problem.message.startswith(message)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{type: local}", "dataset `some` needs `image_folder`"),
        ("{type: webdataset}", "dataset `some` needs `webdataset_url`"),
        ("{type: noise}", "`type` of dataset `some` must be one of local, webdataset"),
        ("{image_folder: p, batch_sise: 3}", "unknown key `batch_sise` in dataset `some`"),
        ("3", "dataset `some` must be a mapping, got the number `3`"),
    ],
)
def test_a_named_dataset_needs_a_source_of_images(entry: str, message: str, tmp_path: Path) -> None:
    text = step("", train_vae=True).replace("    steps:", f"    datasets: {{some: {entry}}}\n    steps:")

    found = problems(tmp_path, f"{text}{DATA}")

    assert [problem.message for problem in found if problem.message.startswith(message)]


def test_a_step_must_choose_one_of_several_datasets(tmp_path: Path) -> None:
    datasets = "    datasets: {a: {image_folder: p}, b: {image_folder: q}}\n    steps:"

    (problem,) = problems(tmp_path, step("", train_vae=True).replace("    steps:", datasets))

    assert problem.message == "step `one` must choose one of 2 datasets"
    assert (problem.code, problem.subject) == ("missing-key", "dataset")
    assert problem.notes == (("hint", "set `dataset` in the step, or `default_dataset` in the pipeline"),)


def test_the_default_dataset_must_exist(tmp_path: Path) -> None:
    text = step("", train_vae=True).replace("    steps:", "    default_dataset: picturs\n    steps:")

    (problem,) = problems(tmp_path, text.replace("steps:", "datasets: {pictures: {image_folder: p}}\n    steps:"))

    assert problem.message == "`default_dataset`: `picturs` is not a dataset of the pipeline"
    assert (problem.subject, problem.nearest) == ("picturs", "pictures")


@pytest.mark.parametrize(
    ("keys", "where", "message"),
    [
        ("optimization:\n  optimizers:\n    vae: {type: AdmaW}", "9:25", "unknown optimizer `AdmaW`"),
        ("optimization:\n  optimizers:\n    vae: {lrr: 1}", "9:19", "unknown key `lrr` in optimizer `AdamW`"),
        (
            "optimization:\n  schedulers:\n    vae: {type: StepLR, gamma: 7}",
            "9:40",
            "`gamma` of scheduler `StepLR` must be",
        ),
        ("optimization:\n  schedulers:\n    vae: {type: CosineLR}", "9:25", "unknown scheduler `CosineLR`"),
    ],
)
def test_a_problem_of_the_recipe_is_reported_at_the_line_of_the_configuration(
    keys: str, where: str, message: str, tmp_path: Path, everything: Registry
) -> None:
    made = translated(tmp_path, whole(step(keys, train_vae=True)))

    with pytest.raises(RecipeError) as caught:
        check("config.yaml", everything, (), made.recipe)

    (problem,) = caught.value.problems
    assert problem.message.startswith(message)
    assert str(problem.where) == f"{tmp_path}/config.yaml:{where}"


@given(st.text(max_size=400))
@settings(max_examples=150)
def test_every_file_is_either_translated_or_rejected_with_a_report(text: str) -> None:
    with TemporaryDirectory() as folder, pytest.raises(RecipeError):
        translated(Path(folder), text)
