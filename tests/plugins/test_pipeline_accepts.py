"""What FluxFlow accepts is accepted: small configurations, which train one batch of each step, and every flag."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from fluxflow_pipeline import command
from fluxflow_pipeline.config.flags import FLAGS
from fluxflow_pipeline.config.keys import DataKeys, ModelKeys, OutputKeys, StepKeys
from fluxflow_pipeline.config.reader import read_flags
from fluxflow_pipeline.config.sections import IGNORED
from fluxflow_registry.recipe.reader import read

from .fluxflow import DATA, MODEL, Done, drive, step, translated, whole, write_images

Train = Callable[..., Done]

OUTPUT = "output: {no_samples: true}\n"


def pipeline(*steps: str, extra: str = "") -> str:
    """A pipeline of steps, each given by its keys."""
    listed = "".join(f"      - {{name: step{number}, n_epochs: 1, {keys}}}\n" for number, keys in enumerate(steps, 1))
    return f"training:\n  pipeline:\n{extra}    steps:\n{listed}"


#: Configurations that FluxFlow 0.5.1 accepts, each with keys of its own; the data are added.
ACCEPTED = {
    "flat": "training: {n_epochs: 1, batch_size: 2, lr: 0.00001, train_vae: true, gan_training: true}\n",
    "flat flow": "training: {train_diff: true, n_epochs: 2}\n",
    "flat baseline, with the width of another part": "training: {train_vae: true}\n"
    "model: {model_type: baseline, baseline_activation: gelu, vae_dim: 4, feature_maps_dim_disc: 8}\n",
    "yaml 1.1": pipeline("train_vae: yes, gan_training: on, use_lpips: no, train_spade: Off, kl_warmup_steps: 5_000"),
    "transition by epochs": pipeline("train_vae: true, transition_on: {mode: epoch, value: 10}"),
    "gan only": pipeline("train_vae: false, gan_training: true, train_spade: true, use_lpips: true"),
    "three stages": pipeline(
        "train_vae: true, freeze: [flow_processor, text_encoder]",
        "train_vae: true, gan_training: true, use_lpips: true",
        "train_diff: true, freeze: [compressor, expander, discriminator], cfg_dropout_prob: 0.1",
    ),
    "flow alone, then all of the schedule": pipeline(
        "train_diff: true, freeze: [compressor, expander], use_ema: true", "train_diff_full: true"
    ),
    "older pages": pipeline(
        "train_vae: true, optimizers: {vae: {optimizer_type: AdamW, lr: 0.1}}, schedulers: {vae: {scheduler_type: X}}",
        "train_vae: true, stop_condition: {loss_name: loss_recon, threshold: 0.1}, sample_captions: [a cat]",
        "train_vae: true, gan_training: true, train_reconstruction: false, optim_sched_config: nowhere.json",
        "train_diff_full: true, freeze_vae: true, train_text_encoder: true, seed: 3",
    ),
    "optimizers at the top, and `output` in `training`": "optimizer_config: {vae_encoder: {type: AdamW, lr: 5e-5}}\n"
    "scheduler_config: {flow_processor: {type: LinearLR, total_iters: 9}}\n"
    "training: {train_vae: true, output_path: out, log_interval: 5}\n",
    "keys of another output": "training: {train_vae: true}\n"
    "output: {checkpoint_dir: a, sample_dir: b, sample_interval: 5, checkpoint_interval: 10, no_samples: true}\n",
    "options of another type": pipeline(
        "train_vae: true, optimization: {optimizers: {vae: {type: AdamW, lr: 1e-4, momentum: 0.9, alpha: 0.5}}, "
        "schedulers: {vae: {type: StepLR, eta_min_factor: 0.1, T_max: 100, gamma: 0.5}}}",
        "train_vae: true, optimization: {optimizers: {vae: {type: Lion, lr: 1e-4, decoupled_weight_decay: false, "
        "weight_decay: 0.1}}, schedulers: {vae: {type: ReduceLROnPlateau, mode: min, patience: 3}}}",
        "train_vae: true, optimization: {optimizers: {vae: {type: AdamW}, flow: {type: Lion}, D_img: {type: Adam}}, "
        "schedulers: {discriminator: {type: StepLR, step_size: 10}}}",
    ),
    "sizes at or above that of the images": pipeline("train_vae: true") + "data: {data_path: pictures, img_size: 32, "
    "captions_file: captions.txt, reduced_min_sizes: [16, 32, 64]}\n",
    "a dataset by name": pipeline(
        "train_vae: true",
        "train_vae: true, dataset: two, batch_size: 1",
        extra="    datasets:\n      one: {type: local, image_folder: pictures, captions_file: c.txt, img_size: 32}\n"
        "      two: {type: local, image_folder: pictures, captions_file: c.txt, img_size: 16, batch_size: 4}\n"
        "    default_dataset: one\n",
    ),
    "transitions": pipeline(
        *(
            "train_vae: true, gan_training: true, use_lpips: true, "
            f"transition_on: {{mode: loss_threshold, metric: {metric}, threshold: 0.05, max_epochs: 50}}"
            for metric in ("recon", "lpips")
        )
    ),
}


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """The command, in a folder with images and captions."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    (tmp_path / "c.txt").write_text((tmp_path / "captions.txt").read_text())
    return lambda text, *arguments, **options: drive(tmp_path, capsys, text, *arguments, **options)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_configuration_that_fluxflow_accepts_trains_a_batch_of_each_step(name: str, train: Train) -> None:
    text = ACCEPTED[name]
    text += "" if "output:" in text else OUTPUT

    done = train(whole(text), short_by=1)

    assert done.code == 0, done.err
    assert (done.run / "final" / "compressor").is_dir()


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in IGNORED.items() for key in keys])
def test_a_key_that_fluxflow_ignores_is_a_note_at_its_line_with_its_present_form(
    section: str, key: str, tmp_path: Path
) -> None:
    written = {
        "": f"{key}: {{}}\n" + whole(step("", train_vae=True)),
        "training": whole(step(f"{key}: 1", train_vae=True)),
        "output": whole(step("", train_vae=True)) + f"output: {{{key}: 1}}\n",
    }[section]
    line = next(number for number, text in enumerate(written.splitlines(), 1) if f"{key}:" in text)

    made = translated(tmp_path, written)

    (note,) = [note for note in made.notes if note.subject == key]
    assert (note.code, str(note.where).split(":")[1]) == ("ignored-key", str(line))
    assert dict(note.notes)["instead"] == IGNORED[section][key]
    assert made.recipe.plain() == translated(tmp_path, whole(step("", train_vae=True))).recipe.plain()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("train_vae: false\ngan_training: true\nuse_lpips: true", "`use_lpips` of step `one` has no effect without"),
        ("transition_on: {value: 10}", "`value` in `transition_on` of step `one` has no effect: the step ends after"),
        ("output_path: there", "`output_path` of step `one` has no effect: FluxFlow 0.5.1 ignores it too"),
        (
            "optimization: {optimizers: {vae: {momentum: 0.9}}}",
            "`momentum` of the optimizer `vae` has no effect: FluxFlow does not pass it to AdamW",
        ),
        (
            "optimization: {schedulers: {vae: {type: ReduceLROnPlateau}}}",
            "`patience` of the scheduler `vae` counts epochs here: FluxFlow counts optimizer steps",
        ),
    ],
)
def test_what_has_no_effect_or_another_unit_is_a_note(keys: str, message: str, tmp_path: Path) -> None:
    made = translated(tmp_path, whole(step(keys, train_vae=True)))

    assert [note for note in made.notes if note.message.startswith(message) and "config.yaml:" in str(note.where)]


def test_a_size_that_is_skipped_is_a_note(tmp_path: Path) -> None:
    text = step("", train_vae=True) + DATA.replace("img_size: 32", "img_size: 32, reduced_min_sizes: [16, 32]") + MODEL

    made = translated(tmp_path, text)

    assert "`reduced_min_sizes` skips 32: the images of dataset `images` are not larger" in [
        note.message for note in made.notes
    ]


def test_only_options_of_fluxflow_are_ignored_and_a_misspelled_one_is_not(tmp_path: Path) -> None:
    keys = "optimization: {optimizers: {vae: {lrr: 1, momentum: 0.9, alpha: 1, lr: 0.5}}}"

    recipe = translated(tmp_path, whole(step(keys, train_vae=True))).recipe.plain()

    optimizer = recipe["steps"]["one"]["updates"]["vae"]["optimizer"]
    assert optimizer == {"type": "AdamW", "lrr": 1, "lr": 0.5, "weight_decay": 0.0}


#: The optimizers of a file that sets none, with a learning rate of 1e-3.
WITHOUT_PIPELINE = {
    "vae": {"type": "AdamW", "lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.01},
    "discriminator": {"type": "AdamW", "lr": 1e-3, "betas": [0.0, 0.9], "weight_decay": 0.001, "amsgrad": True},
    # Lion's decay is that of a step; it is multiplied by the learning rate here.
    "flow": {"type": "Lion", "lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.01 / 1e-3},
    "text_encoder": {"type": "AdamW", "lr": 1e-4, "betas": [0.9, 0.99], "weight_decay": 0.01},
}


def test_a_file_without_a_pipeline_has_the_optimizers_of_fluxflow(tmp_path: Path) -> None:
    modes = "train_vae: true, gan_training: true, train_diff: true, lr: 1e-3"

    (only,) = translated(tmp_path, whole(f"training: {{{modes}}}\n")).recipe.plain()["steps"].values()

    found = {name: update["optimizer"] for name, update in only["updates"].items()}
    assert found == WITHOUT_PIPELINE
    assert only["updates"]["text_encoder"]["scheduler"]["eta_min_factor"] == 0.001
    assert only["workers"] == 1


def test_a_discriminator_without_an_optimizer_has_that_of_the_autoencoder(tmp_path: Path) -> None:
    keys = "gan_training: true\noptimization: {optimizers: {vae: {type: Adam, lr: 0.5, betas: [0.1, 0.2]}}}"

    recipe = translated(tmp_path, whole(step(keys, train_vae=True))).recipe.plain()

    updates = recipe["steps"]["one"]["updates"]
    assert updates["discriminator"]["optimizer"] == updates["vae"]["optimizer"]


@pytest.mark.parametrize(
    ("given", "decay"),
    [("", 0.0), ("weight_decay: 0.1", 1000.0), ("weight_decay: 0.1, decoupled_weight_decay: false", 0.1)],
)
def test_the_decay_of_lion_is_independent_of_the_learning_rate_unless_the_file_says_not(
    given: str, decay: float, tmp_path: Path
) -> None:
    keys = f"optimization: {{optimizers: {{vae: {{type: Lion, lr: 1.0e-4, {given}}}}}}}"

    recipe = translated(tmp_path, whole(step(keys, train_vae=True))).recipe.plain()

    optimizer = recipe["steps"]["one"]["updates"]["vae"]["optimizer"]
    assert optimizer.get("weight_decay", 0.0) == pytest.approx(decay)


def test_optimizers_are_read_from_the_json_file_that_the_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"optimizers": {"vae": {"type": "Adam", "lr": 0.5}}, "schedulers": {"vae": {"type": "ConstantLR"}}}
    Path("lion.json").write_text(json.dumps(content))
    text = whole("training: {train_vae: true}\noptimization: {optim_sched_config: lion.json}\n")

    (only,) = translated(tmp_path, text).recipe.plain()["steps"].values()

    assert only["updates"]["vae"]["optimizer"] == {"type": "Adam", "lr": 0.5}
    assert only["updates"]["vae"]["scheduler"]["type"] == "ConstantLR"


#: Flags that set no key of the same name: those of parts that are not here, and other names.
NOTED = {"feature_maps_dim_disc", "tokenizer_name", "preserve_lr", "webdataset_samples_per_shard"}
NOTED |= {"dataloader_max_retries", "dataloader_retry_delay"}
ALIASES = {"use_tt2m": ("use_webdataset", True), "tt2m_token": ("webdataset_token", "7")}
#: For each type of flag: words of a command line, and the value that they set.
VALUES: dict[type, tuple[list[str], Any]] = {
    bool: ([], True),
    str: (["7"], "7"),
    int: (["4"], 4),
    float: (["0.5"], 0.5),
}
BASE = ["--train_vae", "--data_path", "pictures", "--captions_file", "captions.txt", "--img_size", "32"]


def parsed(*words: str) -> dict[str, Any]:
    return vars(command.parser().parse_args([*BASE, *words]))


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section in ("data", "model", "training", "output") for name in FLAGS[section]],
)
def test_every_flag_of_fluxflow_sets_its_key(section: str, name: str) -> None:
    kind = FLAGS[section][name]
    words, expected = (["7", "9"], [7, 9]) if isinstance(kind, list) else VALUES[kind]
    if name == "channels":
        words, expected = ["3"], 3
    if name in ("test_image_address", "sample_captions"):
        expected = ["7", "9"]

    configs = [read_flags(parsed(f"--{spelled}", *words)) for spelled in (name, name.replace("_", "-"))]

    key, expected = ALIASES.get(name, (name, expected))
    for config in configs:
        if name in NOTED:
            assert [(note.subject, str(note.where)) for note in config.notes] == [(name, f"--{name}")]
            continue
        own = config.steps[0].keys if section == "training" else getattr(config, section)
        value = config.steps[0].batch_size.value if name == "batch_size" else getattr(own.settings, key)
        assert (value, str(own.where(key))) == (expected, f"--{name}")


def test_a_flag_overrides_the_file_and_its_mistakes_name_it(train: Train) -> None:
    text = whole("training: {train_vae: true, kl_beta: 0.5}\n")

    shown = train(text, "--show-recipe", "--kl_beta", "0.25", short_by=None)
    wrong = train(text, "--show-recipe", "--kl-beta=-1", short_by=None)

    assert "kl: {weight: 0.25, warmup: 5000}" in shown.out
    assert wrong.code == 2
    assert wrong.err.startswith("--kl_beta  `kl_beta` of `training` must be >= 0.0, got -1.0")


def test_flags_train_without_a_file(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--vae_dim", "4", "--batch_size", "4", "--no_samples", "--output_path", "there", "--workers", "0"]

    with pytest.raises(SystemExit) as left:
        command.run([*BASE, *tiny, "--device", "cpu", "--set", "steps.training.max_steps=1"])

    assert left.value.code == 0, capsys.readouterr().err
    assert [path.name.split("-")[0] for path in (tmp_path / "there").iterdir()] == ["fluxflow"]


def test_neither_a_file_nor_flags_is_a_missing_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.run(["--validate-pipeline"])

    assert left.value.code == 2
    assert "`--config FILE` is missing" in capsys.readouterr().err


def test_a_token_among_the_flags_is_in_no_file_of_the_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command.TOKEN, "another")
    text = whole(step("", train_vae=True))

    done = train(text, "--webdataset_token", "hf_secret", "--tt2m-token=hf_secret", short_by=1)

    assert done.code == 0, done.err
    assert not [path for path in done.run.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    assert "--config config.yaml" in read(done.run / "run.json").plain()["command"]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        (
            {"epoch": 3, "batch_idx": 127, "pipeline": {"current_step_name": "flow"}},
            " (step `flow`, epoch 4, batch 127)",
        ),
        ({"epoch": "x", "batch_idx": -1, "pipeline": [1]}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_a_run_of_fluxflow_in_the_output_folder_is_reported(
    state: Any, place: str, train: Train, tmp_path: Path
) -> None:
    (tmp_path / "outputs").mkdir()
    content = json.dumps(state) if state is not None else "{"
    (tmp_path / "outputs" / "training_state.json").write_text(content)

    done = train(whole(step("", train_vae=True)), "--validate-pipeline", short_by=None)

    message = f"`outputs` contains a run of FluxFlow{place}, which cannot be resumed here: training starts over"
    assert f"outputs/training_state.json  {message}" in done.out
    assert (tmp_path / "outputs" / "training_state.json").read_text() == content


def test_problems_of_every_stage_are_one_report(train: Train) -> None:
    keys = "kl_beta: high\ntransition_on: {mode: loss_threshold, metric: g_loss, threshold: 1}\n"
    text = whole(step(f"{keys}optimization:\n  optimizers:\n    vae: {{lrr: 1}}", train_vae=True))

    done = train(text, "--validate-pipeline", short_by=None)

    assert done.code == 2
    assert "`kl_beta` of step `one` must be a number" in done.err
    assert "watches `g_loss`, which the step does not log" in done.err
    assert "unknown key `lrr` in optimizer `AdamW`" in done.err
    assert done.err.rstrip().endswith("3 problems")


@pytest.mark.parametrize("keys", ["train_vae: 1", "train_vea: true", "train_vae: maybe"])
def test_nothing_follows_from_a_mode_that_cannot_be_read(keys: str, train: Train) -> None:
    done = train(whole(step(keys)), "--validate-pipeline", short_by=None)

    assert done.code == 2
    assert "trains nothing" not in done.err


def settled() -> Iterator[tuple[str, str, Any]]:
    """Every key that has a default other than null: its section, its name, and the default."""
    for section, cls in {"model": ModelKeys, "data": DataKeys, "training": StepKeys, "output": OutputKeys}.items():
        for name, attribute in attrs.fields_dict(cls).items():
            default: Any = attribute.default
            default = default.factory() if hasattr(default, "factory") else default
            # Set by the file, checkpointing applies to the flow's network too.
            if default is not None and name != "use_gradient_checkpointing":
                yield section, name, default


@pytest.mark.parametrize(("section", "key", "default"), [*settled()])
def test_a_key_that_is_set_to_its_default_changes_nothing(section: str, key: str, default: Any, tmp_path: Path) -> None:
    plain: dict[str, Any] = {
        "model": {"vae_dim": 4} if key != "vae_dim" else {},
        "data": {"data_path": "pictures"},
        "training": {"train_vae": True} if key != "train_vae" else {"train_diff": True},
        "output": {},
    }

    without, explicit = (
        translated(tmp_path, json.dumps({**plain, section: {**plain[section], **own}})).recipe.plain()
        for own in ({}, {key: default})
    )

    assert explicit == without
