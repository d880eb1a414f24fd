"""`fluxflow-generate`: the same words and seed, the same picture; everything else is a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fluxflow_registry.cli import generate
from fluxflow_registry.engine.folder import RunFolder

from ..small import FLOW, VAE_GAN


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run, trained through the command."""
    from fluxflow_registry.cli import main

    root = tmp_path_factory.mktemp("finished")
    (root / "small.yaml").write_text(VAE_GAN.replace("epochs: 2", "epochs: 1") + FLOW)
    torch.set_num_threads(1)
    learn = ["--set", "steps.flow.updates.flow.optimizer.lr=0.02", "--set", "steps.flow.epochs=6"]
    with pytest.raises(SystemExit) as left:
        main.run([str(root / "small.yaml"), "--output", str(root), *learn])
    assert left.value.code == 0
    (folder,) = root.glob("small-*")
    return folder


def draw(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[Path], str]:
    """Exit code, pictures and messages of the command."""
    with pytest.raises(SystemExit) as left:
        generate.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), [Path(line) for line in out.split("\n") if line.endswith(".png")], err


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_a_seed_gives_the_same_picture_each_time_and_another_seed_another(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ["--prompt", "a small red circle on a white background", "--guidance", "4"]

    _, first, _ = draw(capsys, finished, *prompt, "--seed", "7", "--output", tmp_path / "a")
    _, second, _ = draw(capsys, finished, *prompt, "--seed", "7", "--output", tmp_path / "b")
    _, other, _ = draw(capsys, finished, *prompt, "--seed", "8", "--output", tmp_path / "c")

    assert pixels(first[0]) == pixels(second[0])
    assert first[0].name == second[0].name
    assert pixels(first[0]) != pixels(other[0])


def test_a_picture_does_not_depend_on_what_is_drawn_with_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, alone, _ = draw(capsys, finished, "--prompt", "a circle", "--seed", "1", "--output", tmp_path / "a")
    _, beside, _ = draw(
        capsys, finished, "--prompt", "a star", "--prompt", "a circle", "--count", "2", "--output", tmp_path / "b"
    )

    assert len(beside) == 4
    assert pixels(alone[0]) == pixels(next(p for p in beside if p.name == alone[0].name))


@pytest.mark.parametrize(
    "flags",
    [
        ["--guidance", "1"],
        ["--sampler", "heun"],
        ["--steps", "5"],
        ["--negative-prompt", "a star"],
        ["--image-size", "32x24"],
    ],
)
def test_every_flag_changes_the_picture(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    _, plain, _ = draw(capsys, finished, "--prompt", "a circle", "--output", tmp_path)
    code, changed, err = draw(capsys, finished, "--prompt", "a circle", *flags, "--output", tmp_path)

    assert code == 0, err
    assert pixels(plain[0]) != pixels(changed[0])
    assert plain[0] != changed[0]


def test_the_size_is_width_by_height_and_the_file_says_what_made_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pictures, _ = draw(capsys, finished, "--prompt", "a circle", "--image-size", "32x24", "--output", tmp_path)

    with Image.open(pictures[0]) as image:
        image.load()

    assert image.size == (32, 24)
    assert image.info["prompt"] == "a circle"
    assert image.info["guidance"] == "3.0"


def test_prompts_come_from_a_file_too(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a star\n\n  a ring \n")

    with pytest.raises(SystemExit):
        generate.run([str(finished), "--prompts", str(tmp_path / "prompts.txt"), "--json", "--output", str(tmp_path)])

    assert [picture["prompt"] for picture in json.loads(capsys.readouterr().out)] == ["a star", "a ring"]


def test_the_text_changes_the_picture(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, pictures, _ = draw(capsys, finished, "--prompt", "a star", "--prompt", "a red ring", "--output", tmp_path)

    assert pixels(pictures[0]) != pixels(pictures[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN"], 'nothing to draw: give --prompt "a small red circle" or --prompts FILE'),
        (["nowhere", "--prompt", "x"], "is no run's folder: it holds no recipe.yaml"),
        (["RUN", "--prompt", "x", "--sampler", "huen"], "unknown sampler `huen`"),
        (["RUN", "--prompt", "x", "--guidance", "-1"], "must be >= 0"),
        (["RUN", "--prompt", "x", "--steps", "0"], "must be >= 1"),
        (["RUN", "--prompt", "x", "--image-size", "big"], "`big` is no size: 64, or 96x64 for width x height"),
        (["RUN", "--prompt", "x", "--image-size", "33"], "33 x 33"),
        (["RUN", "--prompt", "x", "--image-size", "0"], "0 x 0"),
        (["RUN", "--prompt", "x", "--image-size", "100000"], "a side has at most 8,192 pixels"),
        (["RUN", "--prompt", "x", "--step", "flwo"], "`flwo` is no step of the run"),
        (["RUN", "--prompt", "x", "--device", "gpu"], "there is no device `gpu`"),
        (["RUN", "--prompt", "x", "--count", "0"], "at least one picture"),
        (["RUN", "--prompt", "x", "--output", "/dev/null/x"], "the output folder cannot be written"),
        (["RUN", "--prompts", "gone.txt"], "the prompts cannot be read"),
    ],
)
def test_what_cannot_be_drawn_is_a_clear_error(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, pictures, err = draw(capsys, *[str(finished) if a == "RUN" else a for a in arguments])

    assert code == 2
    assert words in err
    assert not pictures


def test_pictures_of_different_weights_never_share_a_file_and_untrained_models_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, final, _ = draw(capsys, finished, "--prompt", "a circle", "--output", tmp_path)
    code, early, err = draw(capsys, finished, "--prompt", "a circle", "--step", "vae_gan", "--output", tmp_path)

    assert code == 0
    assert final[0] != early[0]
    assert pixels(final[0]) != pixels(early[0])
    assert "note: no step up to `vae_gan` trains `flow_processor`" in err


def test_a_missing_weight_is_an_error_naming_the_model(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "final/expander/model.safetensors").unlink()

    code, _, err = draw(capsys, copy, "--prompt", "a circle")

    assert code == 2
    assert "expander" in err


def test_an_unfinished_run_draws_with_its_newest_checkpoint_and_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "final")
    RunFolder(copy, "x").write_identity(finished=False)

    code, pictures, err = draw(capsys, copy, "--prompt", "a circle")

    assert code == 0
    assert len(pictures) == 1
    assert "the run is not finished; drawing with" in err
