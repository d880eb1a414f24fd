"""The command `fluxflow-train`: what it prints, what it trains, when it ends, and how it resumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from fluxflow_data.shards.tokens import find_token
from fluxflow_pipeline import command
from fluxflow_pipeline.announcements import Pipeline
from fluxflow_pipeline.config.reader import read_config
from fluxflow_registry.cli import main as fluxflow_run
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry

from ..recipes import TINY
from .fluxflow import DATA, MODEL, Done, drive, example, moved, step, stopped_after, whole, write_images

#: What `fluxflow-train` does, then which of the heavy packages it has imported.
PROBE = """
import sys
from fluxflow_pipeline.command import run

try:
    run(sys.argv[1:])
except SystemExit as left:
    heavy = sorted({"torch", "torchvision", "numpy", "PIL", "lpips", "matplotlib"} & set(sys.modules))
    print(f"code {left.code} imported {heavy}", file=sys.stderr)
"""

#: `fluxflow-train`, which receives a signal while it reads the configuration.
SIGNALED = """
import os, signal, sys
from fluxflow_pipeline import command
from fluxflow_pipeline.config import reader

reader.read_config = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
command.run(sys.argv[1:])
"""

#: Files of a shown recipe, and the flags that print them.
SHOWN: dict[str, list[str]] = {"a.yaml": [], "a.json": ["--json"]}

Train = Callable[..., Done]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """The command, in a folder with images and captions."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    return lambda text, *arguments, **options: drive(tmp_path, capsys, text, *arguments, **options)


def test_the_summary_describes_each_step(train: Train) -> None:
    text = whole(example("readme_pipeline")).replace("use_lpips: true", "use_lpips: true\n        freeze: [compressor]")

    done = train(text, "--validate-pipeline", short_by=None)

    assert done.code == 0
    assert (
        done.out.splitlines()
        == """\
Pipeline validation passed: config.yaml

Pipeline Summary:
  Total steps: 3
  Total epochs: 60
  Models: compressor (compressor), expander (expander), discriminator (patch_discriminator), \
text_encoder (text_transformer), flow_processor (flow_transformer)
  Output: outputs

Step 1: vae_warmup (10 epochs)
  Training: VAE
    vae: trains compressor, expander; losses frequency, mse, color_statistics, histogram, contrast, kl; \
AdamW lr 5e-07, CosineAnnealingLR
  Freeze: flow_processor, text_encoder
  Dataset: images (local, pictures, about 32 x 32), batches of 2
  Transition: after 10 epochs

Step 2: vae_gan (20 epochs)
  Training: VAE, GAN, LPIPS
    discriminator: trains discriminator; losses hinge_discriminator, r1; AdamW lr 5e-07, CosineAnnealingLR
    vae: trains expander; losses frequency, mse, lpips, color_statistics, histogram, contrast, hinge_generator; \
AdamW lr 5e-07, CosineAnnealingLR
  Freeze: compressor
  Dataset: images (local, pictures, about 32 x 32), batches of 2
  Transition: after 20 epochs

Step 3: flow (30 epochs)
  Training: Flow
    flow: trains flow_processor, text_encoder; losses velocity; AdamW lr 5e-07, CosineAnnealingLR
  Dataset: images (local, pictures, about 32 x 32), batches of 2
  Transition: after 30 epochs
""".splitlines()
    )
    assert not done.runs


def test_the_summary_as_json_has_the_end_of_each_step(train: Train) -> None:
    done = train(
        whole(step(example("step_loss_threshold"), train_vae=True)), "--validate-pipeline", "--json", short_by=None
    )

    (one,) = json.loads(done.out)["steps"]
    assert one["transition"] == "loss_threshold (vae_loss < 0.05, max 50 epochs)"
    assert one["trains"] == {"vae": ["compressor", "expander"]}
    assert one["metrics"] == ["vae_loss", "kl_loss"]


def test_validation_needs_no_torch_and_less_than_a_second(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(whole(example("complete")))

    done = subprocess.run(
        [sys.executable, "-c", PROBE, "--config", "config.yaml", "--validate-pipeline"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip

    assert done.stderr.splitlines()[-1] in ("code 0 imported []", "code None imported []")
    assert "Total steps: 2" in done.stdout


def test_all_mistakes_are_one_report_and_exit_code_2(train: Train) -> None:
    text = whole(step("freeze: [decoder]\nkl_bta: 1", train_vae=True))

    done = train(text, "--validate-pipeline", short_by=None)

    assert done.code == 2
    assert "config.yaml:7:18  `freeze`" in done.err
    assert "unknown key `kl_bta` in step `one`\n    nearest    kl_beta" in done.err
    assert "`decoder` is not a model" in done.err
    assert done.err.rstrip().endswith("2 problems")


@pytest.mark.parametrize(
    "taken", ["steps.vae_gan.updates.vae.losses.lpips", "steps.flow", "steps.vae_gan.updates.vae.losses.kl"]
)
def test_a_loss_or_step_of_the_translation_can_be_removed_even_if_the_translation_refers_to_it(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, taken: str
) -> None:
    text = whole(example("readme_pipeline"))
    shown = train(text, "--show-recipe", short_by=None)
    (tmp_path / "config.recipe.yaml").write_text(shown.out)

    done = train(text, "--validate-pipeline", "--set", f"{taken}=false", short_by=None)
    with pytest.raises(SystemExit) as left:
        fluxflow_run.run(["config.recipe.yaml", "--validate", "--set", f"{taken}=false"])

    assert "spare: [mse, color_statistics, histogram, contrast, kl]" in shown.out
    assert (done.code, done.err) == (0, "")
    assert not left.value.code
    assert not capsys.readouterr().err


def test_fluxflow_run_resumes_the_run_with_the_shown_recipe(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = whole(step("", train_vae=True)).replace("n_epochs: 1", "n_epochs: 2\n        workers: 0")
    shown = train(text, "--show-recipe", short_by=None)
    with stopped_after(monkeypatch, 3):
        stopped = train(text, short_by=None)
    (tmp_path / "config.recipe.yaml").write_text(shown.out)

    with pytest.raises(SystemExit) as left:
        fluxflow_run.run(["config.recipe.yaml", "--output", "outputs", "--device", "cpu"])

    assert stopped.code == 75
    assert left.value.code == 0
    assert "Resuming at step one (1/1)" in capsys.readouterr().err
    assert len(stopped.runs) == 1


def test_a_second_command_resumes_where_the_first_was_stopped_and_announces_it(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = whole(example("complete")).replace("workers: 1", "workers: 0")
    whole_run = train(text, "--output", "other", short_by=None)

    with stopped_after(monkeypatch, 5):
        stopped = train(text, short_by=None)
    done = train(text, short_by=None)

    assert (stopped.code, done.code) == (75, 0)
    assert len([run for run in done.runs if run.parent.name == "outputs"]) == 1
    assert "Resuming from checkpoint: step=2 (vae_gan), epoch=1, batch=1" in done.err
    assert "Skipping steps: vae_only" in done.err
    assert "Starting step: vae_gan, epoch 1, batch 1" in done.err
    finals = [sorted((run / "final").rglob("*.safetensors")) for run in done.runs]
    assert [file.read_bytes() for file in finals[0]] == [file.read_bytes() for file in finals[1]]
    assert whole_run.code == 0


def test_a_step_that_starts_is_announced_with_its_description(train: Train) -> None:
    done = train(whole(step("description: Warmup VAE without GAN", train_vae=True)))

    announcement = """\
PIPELINE STEP 1/1: one
Description: Warmup VAE without GAN
Duration: 1 epoch
================================================================================
"""
    assert announcement in done.err


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_step_starts_even_if_nobody_reads_its_announcement(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Mock(**{"write.side_effect": error})
    monkeypatch.setattr("sys.stderr", stderr)

    Pipeline().step_started(Mock(steps=[Mock()]), Mock(index=0, epochs=2))

    assert stderr.write.called


def test_a_transition_ends_a_step_before_its_last_epoch(train: Train) -> None:
    keys = "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 100.0, max_epochs: 9}"
    text = whole(step(keys, train_vae=True, n_epochs=9, workers=0, max_steps=1))

    done = train(text, short_by=None)

    assert done.code == 0
    assert "finished: vae/frequency" in done.err
    assert "after 1 epoch | 1 batch" in done.err


def test_a_threshold_that_is_never_reached_ends_the_step_at_its_limit_with_a_warning(train: Train) -> None:
    keys = "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.0, max_epochs: 2}"
    text = whole(step(keys, train_vae=True, n_epochs=3, workers=0, max_steps=1))

    done = train(text, short_by=None)

    assert "warning: step `one` ends because it reached its limit" in done.err
    assert "2 batches" in done.err


def test_the_encoder_learns_from_the_discriminator_in_gan_only_mode_and_not_beside_a_reconstruction(
    train: Train, everything: Registry
) -> None:
    """KL and reconstruction have the weight 0: only the discriminator can move the encoder."""
    alone = {"gan_training": True, "kl_beta": 0.0, "use_ema": False, "adaptive_weights": False}
    both = {**alone, "train_vae": True, "mse_weight": 0.0}
    losses = ("frequency", "color_statistics", "histogram", "contrast")
    weightless = [x for name in losses for x in ("--set", f"steps.one.updates.vae.losses.{name}={{weight: 0.0}}")]

    gan_only = train(whole(step("", **alone)), "--output", "a").inside("a")
    beside = train(whole(step("", **both)), *weightless, "--output", "b").inside("b")

    learned = [moved(done.before(everything), done.weights("one")) for done in (gan_only, beside)]
    assert learned == [{"compressor", "expander", "discriminator"}, {"expander", "discriminator"}]


def test_a_token_reaches_the_environment_and_no_file_and_no_message(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(command.TOKEN, raising=False)
    text = whole(step("", train_vae=True)).replace("data: {", "data: {webdataset_token: hf_secret, ")

    done = train(text)
    shown = train(text, "--show-recipe", short_by=None)
    summed = train(text, "--validate-pipeline", short_by=None)

    assert os.environ.pop(command.TOKEN) == "hf_secret"
    files = [path.read_bytes() for path in done.run.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in content for content in files)
    assert not any("hf_secret" in each.out + each.err for each in (done, shown, summed))


@pytest.mark.parametrize("flags", [["--show-recipe"], ["--show-recipe", "--json"], ["--validate-pipeline"]], ids=str)
def test_no_output_shows_the_signature_of_a_url(train: Train, flags: list[str]) -> None:
    url = "'https://example.org/{0..3}.tar?X-Amz-Signature=Zq7Secret'"
    data = f"data: {{use_webdataset: true, webdataset_url: {url}, "
    text = whole(step("", train_vae=True)).replace("data: {", data)

    done = train(text, *flags, short_by=None)

    assert done.code == 0, done.err
    assert "Zq7Secret" not in done.out + done.err
    assert "https://example.org/{0..3}.tar?***" in done.out


@pytest.mark.parametrize(
    ("used", "token"), [(["web"], "hf_web"), (["images"], "hf_data"), (["images", "web"], "hf_web")]
)
def test_of_several_tokens_the_first_of_a_dataset_that_is_used_reaches_the_environment(
    used: list[str], token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(command.TOKEN, raising=False)
    web = {"type": "webdataset", "webdataset_url": "https://example.org/a.tar", "webdataset_token": "hf_web"}
    steps = [{"name": f"on_{name}", "n_epochs": 1, "train_vae": True, "dataset": name} for name in used]
    pipeline = {"datasets": {"web": web}, "steps": steps}
    data = {"data_path": "pictures", "webdataset_token": "hf_data"}
    (tmp_path / "config.yaml").write_text(json.dumps({"training": {"pipeline": pipeline}, "data": data}))

    command.pass_on_token(read_config(tmp_path / "config.yaml"))

    assert os.environ.pop(command.TOKEN) == token


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment without tokens, before and after."""
    for name in (command.TOKEN, command.ALLOWED):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.mark.usefixtures("tokens")
def test_a_token_is_allowed_for_the_servers_of_its_own_dataset_and_no_other(tmp_path: Path) -> None:
    urls = {
        "one": ["https://one.example/a.tar", "https://me:pw@bad.example/a.tar"],
        "two": "https://two.example:8443/{0..9}.tar",
    }
    datasets = {
        name: {"type": "webdataset", "webdataset_url": url, "webdataset_token": f"hf_{name}"}
        for name, url in urls.items()
    }
    steps = [{"name": f"on_{name}", "n_epochs": 1, "train_vae": True, "dataset": name} for name in urls]
    pipeline = {"datasets": datasets, "steps": steps}
    (tmp_path / "config.yaml").write_text(json.dumps({"training": {"pipeline": pipeline}}))

    command.pass_on_token(read_config(tmp_path / "config.yaml"))

    found = {
        url: find_token(url, None)
        for url in ("https://one.example/b", "https://two.example:8443/b", "https://two.example/b")
    }
    assert list(found.values()) == ["hf_one", "hf_two", None]
    assert find_token("https://huggingface.co/b", None) == "hf_one"
    assert "bad.example" not in os.environ[command.ALLOWED]


@pytest.mark.parametrize(("flags", "code"), [([], 75), (["--validate-pipeline"], 130)])
def test_a_signal_before_training_stops_the_command_with_its_own_exit_code(flags: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALED, "--config", "config.yaml", *flags], capture_output=True, text=True
    )

    assert done.returncode == code
    assert ("SIGTERM: stopped before training started; rerun the same command" in done.stderr) == (code == 75)


def test_the_help_describes_the_folder_of_the_runs_and_what_settings_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command.run(["--help"])

    words = " ".join(capsys.readouterr().out.split())
    assert "folder that contains the runs (default: the configuration's `output_path`)" in words
    assert "change a value of the recipe that --show-recipe prints" in words


def test_the_shown_recipe_as_json_is_the_same_recipe(train: Train, tmp_path: Path) -> None:
    text = whole(example("readme_pipeline"))
    shown = {name: train(text, "--show-recipe", *flags, short_by=None).out for name, flags in SHOWN.items()}

    for name, out in shown.items():
        (tmp_path / name).write_text(out)
    assert read(tmp_path / "a.json").plain() == read(tmp_path / "a.yaml").plain()
    assert isinstance(json.loads(shown["a.json"]), dict)


def test_a_key_that_is_not_needed_is_a_note_and_the_file_trains(train: Train) -> None:
    data = DATA.replace("data: {", "data: {channels: 3, tokenizer_name: distilbert-base-uncased, ")
    text = f"training: {{train_vae: true, preserve_lr: true}}\n{data}{MODEL}"

    done = train(text)

    assert done.code == 0
    assert "note: config.yaml:1:29  `preserve_lr` is not needed: a resumed run keeps its learning rates" in done.err
    assert "`tokenizer_name` is not needed: the text encoder has its own tokenizer" in done.err


def test_a_pipeline_ignores_the_modes_of_training_with_a_note(train: Train) -> None:
    text = whole(step("", train_diff=True)).replace("training:\n", "training:\n  train_vae: true\n  n_epochs: 5\n")

    done = train(text, "--validate-pipeline", short_by=None)

    assert "Training: Flow\n" in done.out
    assert "`train_vae` of `training` is ignored: each step of a pipeline has its own" in done.out
    assert "`n_epochs` of `training` is ignored" in done.out


def test_an_autoencoder_that_no_step_has_trained_is_a_note(train: Train) -> None:
    done = train(whole(step("", train_diff=True)), "--validate-pipeline", short_by=None)

    assert "no step before `one` trains the autoencoder: its latents are random" in done.out


def test_a_text_encoder_that_no_step_trains_is_a_note(train: Train) -> None:
    done = train(whole(step("freeze: [text_encoder]", train_diff=True)), "--validate-pipeline", short_by=None)

    assert "`text_encoder` is frozen in every flow step and not pretrained: its embeddings are random" in done.out


def test_an_optimizer_for_models_that_the_step_does_not_train_is_a_note(train: Train) -> None:
    done = train(whole(step(example("step_optimization"), train_vae=True)), "--validate-pipeline", short_by=None)

    for name in ("discriminator", "flow", "text_encoder"):
        assert f"`{name}` in `optimizers` has no effect: step `one` trains none of its models" in done.out
    assert "`vae` in" not in done.out


@pytest.mark.parametrize("name", ["readme_flat", "minimal", "readme_pipeline", "complete", "readme_gan_only"])
def test_fluxflow_run_names_the_command_that_takes_a_fluxflow_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my config.yaml").write_text(example(name))

    with pytest.raises(SystemExit) as left:
        fluxflow_run.run(["my config.yaml", "--validate", "--set", "seed=3", "--output", "there"])

    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "my config.yaml  `my config.yaml` is a FluxFlow configuration, not a recipe",
        "    command  fluxflow-train --config 'my config.yaml' --validate-pipeline --set seed=3 --output there",
        "    instead  fluxflow-train --config 'my config.yaml' --show-recipe > recipe.yaml   # the same as a recipe",
    ]


@pytest.mark.parametrize("flag", ["--check", "--mermaid", "--inspect-data", "--prove-resume", "--explain"])
def test_the_named_command_trains_only_if_training_was_requested(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(example("minimal"))

    for given in ([flag], []):
        with pytest.raises(SystemExit):
            fluxflow_run.run(["c.yaml", *given])

    looks, trains = (line for line in capsys.readouterr().err.splitlines() if "command" in line)
    assert looks == "    command  fluxflow-train --config c.yaml --validate-pipeline"
    assert trains == "    command  fluxflow-train --config c.yaml"


def test_without_the_plugin_its_command_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUXFLOW_PLUGINS", "vae,data,torch")
    Path("c.yaml").write_text(example("minimal"))

    with pytest.raises(SystemExit) as left:
        fluxflow_run.run(["c.yaml", "--validate"])

    err = capsys.readouterr().err
    assert left.value.code == 2
    assert "fluxflow-train" not in err
    assert "the recipe needs `recipe`" in err


@pytest.mark.parametrize("text", [TINY, TINY.replace("recipe: 1", "")], ids=["whole", "without version"])
def test_fluxflow_train_names_the_command_that_takes_a_recipe(train: Train, text: str) -> None:
    done = train(text, "--validate-pipeline", "--fresh", short_by=None)

    assert done.code == 2
    assert done.err.splitlines() == [
        "config.yaml  `config.yaml` is a recipe, but `fluxflow-train` takes FluxFlow configurations",
        "    command  fluxflow-run config.yaml --validate --fresh --device cpu",
    ]


def test_a_file_that_could_be_either_keeps_its_own_errors(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    done = train("steps: []\nname: mine\n", short_by=None)
    with pytest.raises(SystemExit):
        fluxflow_run.run(["config.yaml"])

    assert "unknown key `name` in the configuration" in done.err
    assert "the recipe needs `recipe`" in capsys.readouterr().err
