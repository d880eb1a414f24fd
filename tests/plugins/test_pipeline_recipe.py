"""What each key of a FluxFlow configuration becomes in the recipe, and that the recipe's text means the same."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_pipeline.config.reader import DEFAULT_SHARDS
from fluxflow_pipeline.config.sections import label
from fluxflow_pipeline.translation.recipe_text import text_of
from fluxflow_registry.check.checker import check
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.recipe import writer as resolved
from fluxflow_registry.recipe.node import Node, as_node
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.registry.registry import Registry

from .fluxflow import DATA, FILES, MODEL, example, step, translated, whole

#: FluxFlow's reconstruction loss, with LPIPS.
RECONSTRUCTION = {"vae/frequency": 1.0, "vae/mse": 0.1, "vae/lpips": 0.1}

ALL = {"train_vae": True, "gan_training": True, "use_lpips": True, "train_diff": True}


def at(recipe: Any, path: str) -> Any:
    """The value at a path of the recipe, or None."""
    return reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, path.split("/"), recipe)


VAE, LOSSES = "steps/one/updates/vae", "steps/one/updates/vae/losses"

#: What the losses of a discriminator with a context take instead of their values.
FAKE = {"fake_logits": "fake_projected_logits"}
CONTEXT = {"context_vector": "latent_vector"}


@pytest.mark.parametrize(
    ("keys", "path", "value"),
    [
        ("n_epochs: 7", "steps/one/epochs", 7),
        ("max_steps: 3", "steps/one/max_steps", 3),
        ("batch_size: 5", "steps/one/batch_size", 5),
        ("workers: 3", "steps/one/workers", 3),
        ("use_fp16: true", "steps/one/precision", "fp16"),
        ("use_fp16: false", "steps/one/precision", None),
        ("training_steps: 4", "steps/one/accumulate", 4),
        ("gradient_accumulation_steps: 2", "steps/one/accumulate", 2),
        ("description: Warm up", "observers/pipeline/descriptions", {"one": "Warm up"}),
        ("kl_beta: 0.01", f"{LOSSES}/kl/weight", 0.01),
        ("kl_warmup_steps: 10", f"{LOSSES}/kl/warmup", 10),
        ("kl_free_bits: 0.5", f"{LOSSES}/kl/free_bits", 0.5),
        ("mse_weight: 0.3", f"{LOSSES}/mse", {"weight": 0.3}),
        ("kl_beta: 0.0001", f"{LOSSES}/frequency", {}),
        ("lambda_lpips: 0.2", f"{LOSSES}/lpips", {"weight": 0.2}),
        ("use_lpips: false", f"{LOSSES}/lpips", None),
        ("lambda_adv: 0.1", f"{LOSSES}/hinge_generator", {"weight": 0.1, "detach": ["latent"], "with": FAKE}),
        ("train_vae: false\nuse_lpips: false", f"{LOSSES}/hinge_generator", {"weight": 0.5, "with": FAKE}),
        ("train_vae: false\nuse_lpips: false", f"{LOSSES}/frequency", None),
        ("gan_training: false", f"{LOSSES}/hinge_generator", None),
        (
            "r1_gamma: 2.0",
            "steps/one/updates/discriminator/losses/r1",
            {"type": "projected_r1", "gamma": 2.0, "every": 16, "with": CONTEXT},
        ),
        ("gan_training: true", "values/real_projected_logits", {"with": CONTEXT}),
        ("use_lpips: true", f"{LOSSES}/color_statistics", {"weight": 0.05}),
        ("use_lpips: true", f"{LOSSES}/histogram", {"weight": 0.02}),
        ("use_lpips: true", f"{LOSSES}/contrast", {"weight": 0.1}),
        ("train_vae: false\nuse_lpips: true", f"{LOSSES}/contrast", None),
        ("train_vae: false\nuse_lpips: true", f"{LOSSES}/lpips", None),
        ("r1_interval: 4", "steps/one/updates/discriminator/losses/r1/every", 4),
        ("r1_gamma: 0", "steps/one/updates/discriminator/losses/r1", None),
        ("gan_training: true", "values/instance_noise", {"std": 0.01, "decay": 0.9999}),
        ("instance_noise_std: 0.05", "values/instance_noise/std", 0.05),
        ("instance_noise_decay: 0.5", "values/instance_noise/decay", 0.5),
        ("gan_training: false", "values/instance_noise", None),
        ("lambda_align: 0.2", "steps/one/updates/flow/losses/alignment", {"weight": 0.2}),
        ("lambda_align: 0.2", "steps/one/updates/flow/trains", ["flow_processor", "text_encoder", "projection"]),
        ("lambda_align: 0.2", "models/projection", {"type": "projection", "width_in": 4, "width_out": 8}),
        ("lambda_align: 0.0", "models/projection", None),
        (
            "adaptive_weights: true",
            f"{VAE}/balancer",
            {"type": "inverse", "spare": ["mse", "color_statistics", "histogram", "contrast", "kl"]},
        ),
        ("adaptive_weights: false", f"{VAE}/balancer", None),
        ("use_lpips: false\ngan_training: false", f"{VAE}/balancer", None),
        ("initial_clipping_norm: 0.5", f"{VAE}/clip_grad_norm", 0.5),
        ("initial_clipping_norm: 0", f"{VAE}/clip_grad_norm", None),
        ("use_ema: false", "steps/one/ema", None),
        ("ema_decay: 0.99", "steps/one/ema/decay", 0.99),
        ("use_ema: true", "steps/one/ema/models", ["compressor", "expander", "flow_processor", "text_encoder"]),
        ("freeze: [compressor, text_encoder]", "steps/one/ema/models", ["expander", "flow_processor"]),
        ("freeze: [compressor]", f"{VAE}/trains", ["expander"]),
        ("freeze: [compressor]", f"{LOSSES}/kl", None),
        ("freeze: [text_encoder]", "steps/one/updates/flow/trains", ["flow_processor"]),
        (
            "freeze: [text_encoder, compressor]\nunfreeze: [text_encoder]",
            "steps/one/updates/flow/trains",
            ["flow_processor", "text_encoder"],
        ),
        ("cfg_dropout_prob: 0.15", "values/prompt", {"dropout": 0.15}),
        ("cfg_dropout_prob: 0.15", "values/generated_image", {"guidance": 5.0}),
        ("cfg_dropout_prob: 0.0", "values/generated_image", {"guidance": 1.0}),
        ("train_diff: true", "values/time", {"distribution": "logit_normal"}),
        ("train_diff_full: true", "values/time", {"distribution": "uniform"}),
        ("lr: 0.002", f"{VAE}/optimizer", {"type": "AdamW", "lr": 0.002, "weight_decay": 0.01}),
        ("lr_min: 0.1", f"{VAE}/optimizer/lr", 5e-7),
        (
            "lr_min: 0.01",
            f"{VAE}/scheduler",
            {"type": "CosineAnnealingLR", "eta_min_factor": 0.01, "interval": "batch"},
        ),
    ],
)
def test_a_key_of_a_step_is_translated(keys: str, path: str, value: Any, tmp_path: Path) -> None:
    recipe = translated(tmp_path, whole(step(keys, **ALL))).recipe.plain()

    assert at(recipe, path) == value


@pytest.mark.parametrize(
    ("section", "path", "value"),
    [
        ("model: {vae_dim: 32}", "models/compressor/latent_channels", 32),
        ("model: {vae_dim: 32}", "models/expander/width", 16),
        ("model: {vae_dim: 32}", "models/flow_processor/latent_channels", 32),
        ("model: {vae_dim: 32}", "models/discriminator/width", 16),
        ("model: {vae_dim: 32, feature_maps_dim_disc: 12}", "models/discriminator",
         {"type": "patch_discriminator", "width": 16, "depth": 4, "spectral_norm": True, "details": 0.0,
          "context_width": 32}),
        ("model: {feature_maps_dim: 100}", "models/flow_processor/heads", 1),
        ("model: {feature_maps_dim: 96}", "models/flow_processor/positions", "rotary"),
        ("model: {model_type: baseline, baseline_activation: gelu}", "models/compressor/activation", "gelu"),
        ("model: {feature_maps_dim: 96}", "models/flow_processor/width", 96),
        ("model: {feature_maps_dim: 96}", "models/flow_processor/heads", 3),
        ("model: {text_embedding_dim: 48}", "models/text_encoder/width", 48),
        ("model: {text_embedding_dim: 48}", "models/flow_processor/text_width", 48),
        ("model: {model_type: baseline, baseline_activation: relu}", "models/expander/activation", "relu"),
        ("model: {vae_dim: 32}", "models/expander/activation", "bezier"),
        ("model: {vae_dim: 32}", "models/compressor/checkpointing", True),
        ("model: {vae_dim: 32}", "models/flow_processor/checkpointing", None),
        ("model: {use_gradient_checkpointing: false}", "models/compressor/checkpointing", None),
        ("model: {use_gradient_checkpointing: true}", "models/compressor/checkpointing", True),
        ("model: {use_gradient_checkpointing: true}", "models/flow_processor/checkpointing", True),
        ("model: {pretrained_bert_model: a/bert, text_embedding_dim: 768}", "models/text_encoder",
         {"type": "pretrained_text_encoder", "name": "a/bert", "max_tokens": 128, "head": 768}),
        ("data: {data_path: a, img_size: 128, reduced_min_sizes: [32, 64]}", "datasets/images/reduced_min_sizes",
         [32, 64]),
        ("output: {checkpoint_save_interval: 10, samples_per_checkpoint: 3}", "observers/samples",
         {"dataset": "images", "prompts": ["A sample caption"], "every_batches": 30}),
        ("output: {sample_captions: []}", "observers/samples/prompts", None),
        ("output: {no_samples: true}", "observers/samples", None),
        ("output: {sample_captions: [a, b], sample_sizes: [32, [64, 32]]}", "observers/samples/sizes", [32, [64, 32]]),
        ("output: {sample_captions: [a, b]}", "observers/samples/prompts", ["a", "b"]),
        ("output: {test_image_address: [a.png]}", "observers/samples/sizes", [32]),
        ("output: {log_interval: 3}", "steps/one/log_every", 3),
        ("output: {checkpoint_save_interval: 7}", "steps/one/checkpoint_every", 7),
        ("data: {data_path: a, captions_file: b, img_size: 64, fixed_prompt_prefix: style anime}", "datasets/images",
         {"type": "folder", "path": "a", "captions": "b", "bucket_multiple": 32, "image_size": 64,
          "caption_prefix": "style anime"}),
        ("data: {data_path: a, img_size: 64, reduced_min_sizes: [32, 64, 96]}", "datasets/images/reduced_min_sizes",
         [32]),
        ("data: {use_webdataset: true, img_size: 64}", "datasets/images/shards", DEFAULT_SHARDS),
        ("data: {use_tt2m: true, tt2m_token: hf_x, img_size: 64}", "datasets/images/shards", DEFAULT_SHARDS),
        ("data: {webdataset_url: a.tar, webdataset_size: 100, img_size: 64}", "steps/one/max_steps", 50),
        ("data: {webdataset_url: 'a/{00..11}.tar', img_size: 64}", "datasets/images",
         {"type": "webdataset", "shards": "a/{00..11}.tar", "image_key": "png", "caption_key": "json.prompt",
          "image_size": 64}),
        ("data: {webdataset_url: a.tar, webdataset_image_key: jpg, webdataset_label_key: txt, img_size: 64}",
         "datasets/images/caption_key", "txt"),
        ("data: {webdataset_url: a.tar, webdataset_caption_key: caption, img_size: 64}",
         "datasets/images/caption_key", "json.caption"),
        ("data: {webdataset_url: a.tar, img_size: 64}", "steps/one/workers", 1),
        ("data: {webdataset_url: a.tar, data_path: b, img_size: 64}", "datasets/images/type", "folder"),
        ("data: {webdataset_url: a.tar, data_path: b, use_webdataset: true, img_size: 64}",
         "datasets/images/type", "webdataset"),
    ],
)  # fmt: skip
def test_a_key_of_a_section_is_translated(section: str, path: str, value: Any, tmp_path: Path) -> None:
    rest = "".join(part for part in (DATA, MODEL) if part.split(":")[0] != section.split(":")[0])

    recipe = translated(tmp_path, f"{step('', **ALL)}{rest}{section}\n").recipe.plain()

    assert at(recipe, path) == value


@pytest.mark.parametrize(
    ("metric", "until"),
    [
        *((name, {"type": "loss_threshold", "metric": "vae/kl"}) for name in ("kl", "kl_loss")),
        *((name, {"type": "loss_threshold", "metric": "flow/velocity"}) for name in ("flow", "flow_loss")),
        *((name, {"type": "loss_threshold", "metric": "vae/lpips"}) for name in ("lpips", "lpips_loss")),
        *((name, {"type": "loss_threshold", "metric": "discriminator_loss"}) for name in ("discriminator", "d_loss")),
        *((name, {"type": "sum_threshold", "terms": {"vae/hinge_generator": 0.5}}) for name in ("generator", "g_loss")),
        *(
            (name, {"type": "sum_threshold", "terms": RECONSTRUCTION})
            for name in ("vae", "recon", "recon_loss", "vae_loss")
        ),
    ],
)
def test_a_transition_watches_the_metric_of_the_same_meaning(metric: str, until: Any, tmp_path: Path) -> None:
    keys = f"n_epochs: 60\ntransition_on: {{mode: loss_threshold, metric: {metric}, threshold: 0.05, max_epochs: 50}}"

    recipe = translated(tmp_path, whole(step(keys, **ALL))).recipe.plain()

    assert recipe["steps"]["one"]["until"] == {**until, "threshold": 0.05, "max_epochs": 50}


def test_a_reconstruction_of_one_loss_is_watched_by_its_own_name(tmp_path: Path) -> None:
    keys = "mse_weight: 0.0\ntransition_on: {mode: loss_threshold, metric: recon, threshold: 0.05}"

    recipe = translated(tmp_path, whole(step(keys, train_vae=True))).recipe.plain()

    assert recipe["steps"]["one"]["until"] == {"type": "loss_threshold", "metric": "vae/frequency", "threshold": 0.05}


def test_a_step_ends_after_the_smaller_of_both_limits(tmp_path: Path) -> None:
    keys = "n_epochs: 20\ntransition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 50}"

    made = translated(tmp_path, whole(step(keys, train_vae=True)))

    one = made.recipe.plain()["steps"]["one"]
    assert (one["epochs"], "max_epochs" in one["until"]) == (20, False)
    assert "step `one` ends after 20 epochs at most: `max_epochs` is above `n_epochs`" in [
        n.message for n in made.notes
    ]


def test_optimizers_and_schedulers_keep_their_options_and_have_their_own_updates(tmp_path: Path) -> None:
    recipe = translated(tmp_path, whole(step(example("step_optimization"), **ALL))).recipe.plain()

    updates = recipe["steps"]["one"]["updates"]
    assert list(updates) == ["discriminator", "vae", "flow", "text_encoder"]
    assert updates["vae"]["optimizer"] == {"type": "AdamW", "lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": 0.01}
    assert updates["discriminator"]["scheduler"] == {
        "type": "StepLR",
        "step_size": 10,
        "gamma": 0.5,
        "interval": "batch",
    }
    assert updates["flow"]["trains"] == ["flow_processor"]
    assert updates["text_encoder"]["optimizer"] == {"type": "SGD", "lr": 1e-5, "momentum": 0.9}
    assert updates["text_encoder"]["losses"] == updates["flow"]["losses"] == {"velocity": {}}


LEVELS = """\
data: {{data_path: pictures, img_size: 32}}
training:
  batch_size: 2
  workers: 2
  pipeline:
    datasets:
      some: {{image_folder: other, img_size: 64{dataset}}}
    default_dataset: {default}
    defaults: {{train_vae: true, n_epochs: 1{defaults}}}
    steps:
      - {{name: one{step}}}
"""


@pytest.mark.parametrize(
    ("levels", "size", "dataset"),
    [
        ({}, 2, "images"),
        ({"defaults": ", batch_size: 3"}, 3, "images"),
        ({"defaults": ", batch_size: 3", "dataset": ", batch_size: 4"}, 3, "images"),
        ({"defaults": ", batch_size: 3", "dataset": ", batch_size: 4", "default": "some"}, 4, "some"),
        ({"dataset": ", batch_size: 4", "step": ", dataset: some"}, 4, "some"),
        ({"dataset": ", batch_size: 4", "default": "some", "step": ", batch_size: 5"}, 5, "some"),
        ({"defaults": ", dataset: some"}, 2, "some"),
        ({"defaults": ", dataset: images", "default": "some"}, 2, "images"),
    ],
)
def test_the_step_overrides_the_dataset_which_overrides_the_defaults_which_override_the_file(
    levels: dict[str, str], size: int, dataset: str, tmp_path: Path
) -> None:
    text = LEVELS.format(**{"dataset": "", "default": "null", "defaults": "", "step": "", **levels})

    one = translated(tmp_path, text).recipe.plain()["steps"]["one"]

    assert (one["batch_size"], one["dataset"], one["workers"]) == (size, dataset, 2)


def test_each_named_dataset_that_a_step_uses_is_in_the_recipe(tmp_path: Path) -> None:
    text = """
training:
  pipeline:
    datasets:
      faces: {type: local, image_folder: a, captions_file: a.txt, img_size: 64}
      remote: {type: webdataset, webdataset_url: "b/{0..9}.tar", webdataset_token: hf_secret, img_size: 32}
      unused: {image_folder: c}
    default_dataset: faces
    steps:
      - {name: one, n_epochs: 1, train_vae: true}
      - {name: two, n_epochs: 1, train_vae: true, dataset: remote}
"""
    made = translated(tmp_path, text)

    recipe = made.recipe.plain()
    assert list(recipe["datasets"]) == ["faces", "remote"]
    assert [each["dataset"] for each in recipe["steps"].values()] == ["faces", "remote"]
    assert [each["workers"] for each in recipe["steps"].values()] == [8, 1]
    assert "hf_secret" not in made.text


def test_settings_that_all_steps_share_are_defaults(tmp_path: Path) -> None:
    recipe = translated(tmp_path, whole(example("readme_pipeline"))).recipe.plain()

    assert recipe["defaults"] == {"dataset": "images", "batch_size": 2, "workers": 8, "log_every": 10,
                                  "checkpoint_every": 50}  # fmt: skip
    assert all("batch_size" not in each for each in recipe["steps"].values())


@pytest.mark.parametrize("name", sorted(p.stem for p in FILES.glob("*.yaml") if p.stem in ("complete", "readme_cfg")))
def test_the_recipe_as_text_is_the_recipe_that_is_trained(name: str, tmp_path: Path, everything: Registry) -> None:
    made = translated(tmp_path, whole(example(name)))
    file = tmp_path / "as_text.yaml"
    file.write_text(made.text)

    run, written = check("config.yaml", everything, (), made.recipe), check(file, everything)

    assert resolved.plain(effective_recipe(run)) == resolved.plain(effective_recipe(written))


def test_every_value_of_the_recipe_has_its_line_in_the_configuration(tmp_path: Path, everything: Registry) -> None:
    text = whole(step("kl_beta: 0.25", train_vae=True))
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "kl_beta" in each)

    tree = effective_recipe(check("config.yaml", everything, (), translated(tmp_path, text).recipe))

    kl = tree["steps"]["one"]["updates"]["vae"]["losses"]["kl"]
    assert kl["weight"] == (0.25, f"{tmp_path}/config.yaml:{line}:18")
    assert kl["warmup"] == (5000, "FluxFlow's default of kl_warmup_steps")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
KEYS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=12)


def node_of(value: Any) -> Node:
    """A tree whose scalars and lists have comments."""
    if isinstance(value, dict):
        return as_node({key: node_of(child) for key, child in value.items()}, "here")
    return as_node(value, "here", "a comment")


@given(
    st.dictionaries(
        KEYS,
        st.recursive(SCALARS | st.lists(SCALARS, max_size=3), lambda inner: st.dictionaries(KEYS, inner, max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_every_tree_is_read_back_as_it_was_written(tree: dict[str, Any]) -> None:
    text = text_of(node_of(tree), "head\n\nof the file")

    assert parse(text, "text").plain() == tree


def test_a_comment_that_does_not_fit_is_written_above_its_line() -> None:
    wide = as_node({"a": as_node("x" * 100, "here", "a reason that does not fit either")}, "here")

    assert text_of(wide, "head").splitlines()[1:] == ["# a reason that does not fit either", f"a: {'x' * 100}"]


def test_names_that_are_not_labels_become_labels(tmp_path: Path) -> None:
    made = translated(tmp_path, whole(step("", train_vae=True).replace("name: one", "name: vae-warm up")))

    assert list(made.recipe.plain()["steps"]) == ["vae_warm_up"]
    assert [note.subject for note in made.notes if note.code == "renamed-step"] == ["vae-warm up"]
    assert label("...") == ""
