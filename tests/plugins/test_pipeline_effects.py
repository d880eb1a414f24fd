"""What the keys of a FluxFlow configuration do to weights, files and metrics."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.registry.registry import Registry

from .fluxflow import Done, drive, example, moved, step, stopped_after, whole, write_images

Train = Callable[..., Done]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """The command, in a folder with images and captions."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    return lambda text, *arguments, **options: drive(tmp_path, capsys, text, *arguments, **options)


def lines(done: Done, step_: str) -> list[dict[str, Any]]:
    """The lines of a step's file of metrics that are of batches."""
    text = (done.run / "graph" / f"training_metrics_{step_}.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if "seconds_per_batch" in line]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def steps(*bodies: str) -> str:
    """A pipeline of steps, each given by its keys."""
    listed = "".join(f"      - {{name: step{number}, n_epochs: 1, {body}}}\n" for number, body in enumerate(bodies, 1))
    return whole(f"training:\n  pipeline:\n    steps:\n{listed}")


def test_spade_is_trained_in_the_steps_that_request_it_and_in_no_other(train: Train, everything: Registry) -> None:
    done = train(steps("train_vae: true, train_spade: false", "train_vae: true, train_spade: true"))

    stages = [done.before(everything), done.weights("step1"), done.weights("step2")]
    assert done.code == 0, done.err
    spade = [{"expander": {k: v for k, v in each["expander"].items() if "spade" in k}} for each in stages]
    assert spade[0]["expander"]
    assert moved(spade[0], spade[1]) == set()
    assert moved(spade[1], spade[2]) == {"expander"}


def test_a_model_that_is_frozen_in_one_step_is_trained_in_the_next(train: Train, everything: Registry) -> None:
    done = train(steps("train_vae: true, freeze: [compressor]", "train_vae: true, freeze: [expander]"))

    stages = [done.before(everything), done.weights("step1"), done.weights("step2")]
    assert [moved(a, b) for a, b in itertools.pairwise(stages)] == [{"expander"}, {"compressor"}]


def test_the_learning_rate_of_a_step_is_the_rate_at_which_it_trains(train: Train) -> None:
    text = whole(step(example("step_optimization"), train_vae=True, gan_training=True, train_diff=True))

    done = train(text + "output: {log_interval: 1}\n")

    second = lines(done, "one")[1]["metrics"]
    rates = {name: second[f"{name}/lr"] for name in ("vae", "discriminator", "flow", "text_encoder")}
    # After the first of four batches; the discriminator's StepLR waits for ten.
    share = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert rates == pytest.approx(
        {"vae": 1e-4 * share, "discriminator": 1e-4, "flow": 5e-5 * share, "text_encoder": 1e-5 * share}
    )


def test_metrics_have_the_names_of_fluxflow_in_files_and_on_the_console(train: Train) -> None:
    text = whole(step("", train_vae=True, gan_training=True, train_diff=True)) + "output: {log_interval: 1}\n"

    done = train(text)

    metrics = lines(done, "one")[0]["metrics"]
    assert {"vae_loss", "kl_loss", "g_loss", "d_loss", "flow_loss"} <= set(metrics)
    assert metrics["vae_loss"] != metrics["vae_total"]
    (last,) = [line for line in done.err.splitlines() if "Batch 4/4" in line]
    assert " | VAE: " in last
    assert all(f" | {name}: " in last for name in ("KL", "G", "D", "Flow"))


def test_a_tenth_of_the_captions_is_dropped_if_the_step_requests_it(train: Train, everything: Registry) -> None:
    done = train(whole(step("cfg_dropout_prob: 0.5", train_diff=True)))

    (checked,) = check(done.run / "recipe.yaml", everything).steps
    prompt = checked.providers["prompt"].instance
    kept = prompt([f"caption {n}" for n in range(2000)], torch.Generator().manual_seed(0))
    assert kept.count("") / 2000 == pytest.approx(0.5, abs=0.05)


def test_train_diff_trains_on_the_middle_of_the_schedule_and_train_diff_full_on_all_of_it(
    train: Train, everything: Registry
) -> None:
    shares = []
    for mode in ("train_diff", "train_diff_full"):
        done = train(whole(step("", **{mode: True})), "--output", mode).inside(mode)
        (checked,) = check(done.run / "recipe.yaml", everything).steps
        path = checked.providers["path"].instance()
        time = checked.providers["time"].instance(torch.zeros(4000, 1, 1, 1), path, torch.Generator().manual_seed(0))
        shares.append(float(((time > 0.9) | (time < 0.1)).float().mean()))

    assert shares[0] < 0.05
    assert shares[1] == pytest.approx(0.2, abs=0.03)


def test_averaged_weights_differ_from_plain_ones(train: Train) -> None:
    averaged, plain = (
        train(whole(step(f"use_ema: {on}\nema_decay: 0.5\nlr: 0.01", train_vae=True)), "--output", on).inside(on)
        for on in ("true", "false")
    )

    assert moved(averaged.weights("one"), plain.weights("one")) == {"compressor", "expander"}


def test_smaller_copies_of_each_batch_are_trained_on_first(train: Train) -> None:
    text = whole(step("", train_vae=True)).replace("img_size: 32", "img_size: 32, reduced_min_sizes: [16]")

    done = train(f"{text}output: {{log_interval: 1, no_samples: true}}\n", short_by=2)

    assert done.code == 0, done.err
    assert done.recipe()["datasets"]["images"]["reduced_min_sizes"] == [16]
    assert len(lines(done, "one")) == 4  # two batches, each in two sizes


def test_samples_are_written_for_data_files_and_captions_at_the_sizes_and_checkpoints_of_the_file(
    train: Train, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "template.png")
    output = (
        "output: {checkpoint_save_interval: 1, samples_per_checkpoint: 2, test_image_address: [template.png], "
        "sample_captions: [an orange banana], sample_sizes: [32, [64, 32]]}\n"
    )

    done = train(whole(step("", train_vae=True, train_diff=True)) + output, short_by=3)

    names = sorted(path.name for path in (done.run / "samples").iterdir())
    assert done.code == 0, done.err
    assert {name.split("-")[-1].split("_n")[-1] for name in names} >= {"original.webp", "generated.webp"}
    within = {found[1] for name in names if (found := re.match(r"one_001_001_(\d{5})_", name))}
    assert within == {"00002"}
    assert {size_of(path) for path in (done.run / "samples").glob("*generated.webp")} == {(32, 32), (64, 32)}


def test_no_samples_are_written_if_the_file_disables_them(train: Train) -> None:
    done = train(whole(step("", train_vae=True)) + "output: {no_samples: true}\n")

    assert not (done.run / "samples").exists()


def test_captions_are_read_with_the_fixed_prefix(train: Train, everything: Registry) -> None:
    text = whole(step("", train_diff=True)).replace("img_size: 32", "img_size: 32, fixed_prompt_prefix: style anime")
    done = train(text)

    sources = open_sources(check(done.run / "recipe.yaml", everything))
    assert sources["images"].batch([0], 0)["caption"] == ["style anime. picture 0 of many"]


def test_steps_train_on_their_own_datasets_in_batches_of_their_own_size(train: Train, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for index in range(3):
        shutil.copy(tmp_path / "pictures" / f"{index}.png", tmp_path / "few")
        (tmp_path / "few" / f"{index}.txt").write_text("one of few")
    text = steps("train_vae: true", "train_vae: true, dataset: few").replace(
        "    steps:", "    datasets: {few: {image_folder: few, img_size: 16, batch_size: 3}}\n    steps:"
    )

    done = train(text, short_by=9)

    assert "STEP 1/2: step1, 1 epoch of 4 batches" in done.err
    assert "STEP 2/2: step2, 1 epoch of 1 batch" in done.err


def test_instance_noise_changes_what_the_discriminator_learns(train: Train) -> None:
    quiet, noisy = (
        train(
            whole(step(f"instance_noise_std: {std}", train_vae=True, gan_training=True)), "--output", str(std)
        ).inside(str(std))
        for std in (0.0, 0.5)
    )

    assert "discriminator" in moved(quiet.weights("one"), noisy.weights("one"))


def test_alignment_trains_its_projection_beside_the_flow(train: Train, everything: Registry) -> None:
    done = train(whole(step("lambda_align: 0.5", train_diff=True)))

    assert done.code == 0, done.err
    assert moved(done.before(everything), done.weights("one")) == {"flow_processor", "text_encoder", "projection"}


@pytest.mark.charts
@pytest.mark.parametrize("how", ["flag", "key"])
def test_charts_are_written_at_the_end(train: Train, how: str) -> None:
    text = whole(step("", train_vae=True)) + ("output: {generate_diagrams: true}\n" if how == "key" else "")

    done = train(text, *(["--generate_diagrams"] if how == "flag" else []))

    assert done.code == 0, done.err
    names = {path.name for path in (done.run / "graph").iterdir()}
    assert {"training_losses.png", "kl_loss.png", "learning_rates.png", "training_summary.txt"} <= names


def test_the_same_command_without_the_flag_resumes_the_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    text = whole(step("", train_vae=True))

    with stopped_after(monkeypatch, 2):
        stopped = train(text, "--generate_diagrams")
    done = train(text)

    assert (stopped.code, done.code) == (75, 0)
    assert len(done.runs) == 1


def test_tar_files_are_trained_on_with_the_captions_in_their_json(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything: Registry
) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:02}.tar", "w") as tar:
            for index in range(4 * shard, 4 * shard + 4):
                (tmp_path / "label.json").write_text(json.dumps({"prompt": f"sample {index}"}))
                tar.add(tmp_path / "pictures" / f"{index}.png", f"{index}.png")
                tar.add(tmp_path / "label.json", f"{index}.json")
    data = 'data: {webdataset_url: "{00..01}.tar", img_size: 32}\n'

    done = train(whole(step("", train_vae=True, train_diff=True) + data))

    sources = open_sources(check(done.run / "recipe.yaml", everything))
    assert done.code == 0, done.err
    assert sources["images"].batch([0, 7], 0)["caption"] == ["sample 0", "sample 7"]
    assert moved(done.before(everything), done.weights("one")) == {
        "compressor", "expander", "flow_processor", "text_encoder"
    }  # fmt: skip


def test_each_of_fluxflows_metrics_can_end_a_step(train: Train) -> None:
    """A step for each metric, which would run to its limit if no metric of that name were logged."""
    watched = ["recon", "kl_loss", "generator", "d_loss", "flow_loss"]
    modes = "train_vae: true, gan_training: true, train_diff: true, workers: 0, max_steps: 1"
    until = "transition_on: {{mode: loss_threshold, metric: {}, threshold: 1.0e+9, max_epochs: 3}}"
    text = steps(*(f"{modes}, {until.format(metric)}" for metric in watched))

    shallow = [f"models.{model}.depth=1" for model in ("flow_processor", "text_encoder")]
    given = [item for setting in shallow for item in ("--set", setting)]

    done = train(f"{text}output: {{no_samples: true}}\n", *given, short_by=None)

    assert done.code == 0, done.err
    ends = re.findall(r"finished: (.+) \S+ < 1e\+09 after 1 epoch \| 1 batch", done.err)
    assert ends == [
        *("vae/frequency + 0.1 vae/mse", "vae/kl", "0.5 vae/hinge_generator"),
        *("discriminator_loss", "flow/velocity"),
    ]
