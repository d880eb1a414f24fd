"""`fluxflow-generate`: the same words and seed, the same picture; everything else is a clear error."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fluxflow_registry.cli import generate
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.state import store

from ..small import FLOW, VAE_GAN


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run, trained through the command."""
    from fluxflow_registry.cli import main

    root = tmp_path_factory.mktemp("finished")
    (root / "small.yaml").write_text(VAE_GAN.replace("epochs: 2", "epochs: 1") + FLOW)
    torch.set_num_threads(1)
    learn = ["--set", "steps.flow.updates.flow.optimizer.lr=0.02", "--set", "steps.flow.epochs=6"]
    with pytest.raises(SystemExit) as left:  # without charts, which take longer than the training
        main.run([str(root / "small.yaml"), "--output", str(root), *learn, "--set", "observers.graphs=false"])
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


def test_a_seed_generates_the_same_image_each_time_and_another_seed_another(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ["--prompt", "a small red circle on a white background", "--guidance", "4"]

    _, first, _ = draw(capsys, finished, *prompt, "--seed", "7", "--output", tmp_path / "a")
    _, second, _ = draw(capsys, finished, *prompt, "--seed", "7", "--output", tmp_path / "b")
    _, other, _ = draw(capsys, finished, *prompt, "--seed", "8", "--output", tmp_path / "c")

    assert pixels(first[0]) == pixels(second[0])
    assert first[0].name == second[0].name
    assert pixels(first[0]) != pixels(other[0])


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A small, red circle", "a-small-red-circle"),
        ("", "empty"),
        ("一只红色的猫", "一只红色的猫"),
        ("cafe\u0301", "café"),
        ("🐱🐱", "prompt"),
        ("../../etc/passwd", "etc-passwd"),
        ("x" * 80, "x" * 60),
        ("猫" * 80, "猫" * 20),
    ],
)
def test_the_name_of_an_image_has_the_words_of_its_prompt_in_every_script(prompt: str, name: str) -> None:
    assert generate.slug(prompt) == name


def test_an_image_does_not_depend_on_what_is_generated_with_it(
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
        ["--sampler", "dpmpp_2m", "--steps", "5"],
        ["--steps", "5"],
        ["--negative-prompt", "a star"],
        ["--image-size", "32x24"],
    ],
)
def test_every_flag_changes_the_image(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    _, plain, _ = draw(capsys, finished, "--prompt", "a circle", "--output", tmp_path)
    code, changed, err = draw(capsys, finished, "--prompt", "a circle", *flags, "--output", tmp_path)

    assert code == 0, err
    assert pixels(plain[0]) != pixels(changed[0])
    assert plain[0] != changed[0]


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["--prompt", "a circle"], ""),
        (["--prompt", "red " * 64], "the text encoder reads 63 words of a caption, and some captions are longer"),
        (
            ["--prompt", "a circle", "--guidance", "1", "--negative-prompt", "a star"],
            "value `generated_image`: `negative_prompt` has no effect without guidance",
        ),
    ],
)
def test_what_has_no_effect_on_an_image_is_noted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], note: str
) -> None:
    code, images, err = draw(capsys, finished, *flags, "--output", tmp_path)

    assert (code, len(images)) == (0, 1)
    assert note in err
    assert err.count("note: ") == (note != "")


def test_guidance_of_a_run_whose_captions_were_never_dropped_is_noted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe + "values: {prompt: {dropout: 0.0}}\n")

    code, _, err = draw(capsys, run, "--prompt", "a circle")

    assert code == 0, err
    assert "`guidance: 3` compares a caption with the empty one, which was never trained on" in err


def test_the_size_is_width_by_height_and_the_file_records_how_it_was_generated(
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


def test_the_prompt_changes_the_image(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, pictures, _ = draw(capsys, finished, "--prompt", "a star", "--prompt", "a red ring", "--output", tmp_path)

    assert pixels(pictures[0]) != pixels(pictures[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["RUN"],
            'a prompt is required\n    hint  set --prompt "a small red circle", --prompts FILE or --text-prompts-path',
        ),
        (
            ["--prompt", "x"],
            "a run is required\n    hint  name the folder of a run, as in `fluxflow-generate runs/NAME`",
        ),
        (["RUN", "--prompt", "x", "--model_checkpoint", "RUN"], "`RUN` cannot be combined with `--model-checkpoint`"),
        (
            ["--model_checkpoint", "RUN/checkpoints/000000099-vae", "--prompt", "x"],
            "the run has no checkpoint `000000099-vae`",
        ),
        (["--model_checkpoint", "RUN/graph", "--prompt", "x"], "this folder of the run contains no models"),
        (["RUN", "--text_prompts_path", "RUN/final"], "the prompt folder contains no .txt file"),
        (["RUN", "--text_prompts_path", "gone"], "cannot read the prompts"),
        (["RUN", "--prompt", "x", "--batch_size", "0"], "`--batch-size` must be at least 1"),
        (
            ["RUN", "--prompt", "x", "--guidance", "2", "--guidance_scale", "3"],
            "`--guidance` cannot be combined with `--guidance-scale`",
        ),
        (
            ["RUN", "--prompt", "x", "--guidance_scal", "3"],
            "no flag `--guidance-scal`\n    nearest    --guidance-scale",
        ),
        (["nowhere", "--prompt", "x"], "folder `nowhere` does not exist"),
        ([".", "--prompt", "x"], "this is not the folder of a run: it has no recipe.yaml"),
        (["RUN", "--prompt", "x", "--sampler", "huen"], "unknown sampler `huen`"),
        (["RUN", "--prompt", "x", "--guidance", "-1"], "must be >= 0"),
        (["RUN", "--prompt", "x", "--steps", "0"], "must be >= 1"),
        (["RUN", "--prompt", "x", "--image-size", "big"], "`big` is not a size: write 64, or 96x64 for width x height"),
        (["RUN", "--prompt", "x", "--image-size", "33"], "33 x 33"),
        (["RUN", "--prompt", "x", "--image-size", "0"], "0 x 0"),
        (["RUN", "--prompt", "x", "--image-size", "100000"], "a side has at most 8,192 pixels"),
        (["RUN", "--prompt", "x", "--step", "flwo"], "the run has no step `flwo`"),
        (["RUN", "--prompt", "x", "--device", "gpu"], "there is no device `gpu`"),
        (["RUN", "--prompt", "x", "--count", "0"], "`--count` must be at least 1"),
        (["RUN", "--prompt", "x", "--output", "/dev/null/x"], "cannot create the output folder"),
        (["RUN", "--prompts", "gone.txt"], "cannot read the prompts"),
    ],
)
def test_what_cannot_be_generated_is_a_clear_error(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, pictures, err = draw(capsys, *[a.replace("RUN", str(finished)) for a in arguments])

    assert code == 2
    assert words in err
    assert not pictures


def test_images_of_different_weights_never_share_a_file_and_untrained_models_are_reported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, final, _ = draw(capsys, finished, "--prompt", "a circle", "--output", tmp_path)
    code, early, err = draw(capsys, finished, "--prompt", "a circle", "--step", "vae_gan", "--output", tmp_path)

    assert code == 0
    assert final[0] != early[0]
    assert pixels(final[0]) != pixels(early[0])
    assert "note: model `flow_processor` is not trained in or before step `vae_gan`" in err


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


def test_an_unfinished_run_generates_with_its_newest_checkpoint_and_prints_a_note(
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
    assert "the run is not finished; using the checkpoint" in err


def of_an_unfinished_run(finished: Path, root: Path, checkpoint: str) -> Path:
    """A copy of the finished run in which everything after a checkpoint is missing."""
    copy = root / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "final")
    RunFolder(copy, "x").write_identity(finished=False)
    for folder in (copy / "checkpoints").iterdir():
        if folder.name != checkpoint:
            shutil.rmtree(folder)
    return copy


def test_models_that_no_step_has_trained_yet_are_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = of_an_unfinished_run(finished, tmp_path, "000000006-vae_gan-end")

    for source in ([run], ["--model-checkpoint", run / "checkpoints" / "000000006-vae_gan-end", "--step", "flow"]):
        code, images, err = draw(capsys, *source, "--prompt", "a circle", "--output", tmp_path / "images")

        assert (code, len(images)) == (0, 1), err
        noise = "was not trained yet at checkpoint 000000006-vae_gan-end: its initial weights generate noise"
        assert f"note: model `flow_processor` {noise}" in err
        assert f"note: model `expander` {noise}" not in err


@pytest.mark.parametrize("steps", [0, 1])
def test_within_a_step_the_models_are_named_that_no_update_has_changed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    run = of_an_unfinished_run(finished, tmp_path, "000000006-vae_gan-end")
    state, meta = store.load(run / "checkpoints" / "000000006-vae_gan-end")
    updates = {"vae": {"steps": steps}, "discriminator": {"steps": 1}}
    store.save(run / "checkpoints", "000000007-vae_gan-stop", {**state, "update": updates}, meta)

    code, _, err = draw(capsys, run, "--prompt", "a circle", "--output", tmp_path / "images")

    assert code == 0, err
    assert ("note: model `expander` was not trained yet" in err) == (steps == 0)
    assert "note: model `flow_processor` was not trained yet" in err
    assert "discriminator" not in err


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A folder of prompts, as FluxFlow reads them."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "sunset.txt").write_text("a small red circle\non a white background\n")
    (folder / "night.txt").write_text("\ufeffa large blue star", encoding="utf-8")
    (folder / "notes.md").write_text("no prompt")
    return folder


def metadata_of(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        image.load()
        return {str(key): value for key, value in image.info.items()}


def test_the_command_line_of_fluxflow_generates_from_each_file_of_a_folder(
    finished: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--text_prompts_path", prompts, "--output_path", tmp_path / "out", "--use_cfg", "--guidance_scale", "5.0"]

    sizes = ["--vae_dim", "128", "--feature_maps_dim", "128", "--text_embedding_dim", "1024", "--workers", "1"]
    same = [*sizes, "--tokenizer_name", "distilbert-base-uncased", "--batch_size", "4", "--img_size", "16"]

    code, pictures, err = draw(capsys, "--model_checkpoint", finished, *flags, "--ddim_steps", "2", *same)

    assert code == 0, err
    assert [picture.name[: picture.name.index("-seed0")] for picture in pictures] == ["night", "sunset"]
    assert [metadata_of(picture)["prompt"] for picture in pictures] == [
        "a large blue star",
        "a small red circle on a white background",
    ]
    assert {metadata_of(picture)["guidance"] for picture in pictures} == {"5.0"}
    assert {metadata_of(picture)["steps"] for picture in pictures} == {"2"}
    assert "--batch-size has no effect" in err
    assert "note: --vae-dim has no effect: the architecture is read from the run" in err
    assert "note: --workers has no effect: prompts are read by this process" in err
    assert "note: --tokenizer-name has no effect: the text encoder of the run has its own tokenizer" in err


@pytest.mark.parametrize(
    ("flags", "guidance"),
    [
        ([], "3.0"),
        (["--guidance_scale", "5"], "5.0"),
        (["--use-cfg"], "3.0"),
        (["--text-prompts-path", "PROMPTS"], "1.0"),
        (["--text-prompts-path", "PROMPTS", "--use-cfg"], "3.0"),
        (["--text-prompts-path", "PROMPTS", "--use-cfg", "--guidance-scale", "5"], "5.0"),
        (["--text-prompts-path", "PROMPTS", "--guidance-scale", "5"], "1.0"),
        (["--text-prompts-path", "PROMPTS", "--guidance", "4"], "4.0"),
    ],
)
def test_guidance_is_the_recipes_unless_flags_of_fluxflow_ask_for_what_they_meant_there(
    finished: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], guidance: str
) -> None:
    stated = [flag.replace("PROMPTS", str(prompts / "night.txt")) for flag in flags]

    _, pictures, err = draw(capsys, finished, "--prompt", "a circle", *stated, "--output", tmp_path)

    assert {metadata_of(picture)["guidance"] for picture in pictures} == {guidance}
    assert ("--guidance-scale has no effect without --use-cfg" in err) == (
        "--guidance-scale" in flags and guidance == "1.0"
    )


def test_a_batch_size_does_not_change_an_image(
    finished: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        draw(capsys, finished, "--text-prompts-path", prompts, "--batch-size", size, "--output", tmp_path / size)[1]
        for size in ("1", "2")
    ]

    assert [pixels(path) for path in found[0]] == [pixels(path) for path in found[1]]


def test_a_checkpoint_generates_with_its_own_weights_and_final_with_the_finished_ones(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = sorted(path for path in (finished / "checkpoints").iterdir() if path.name.endswith("-end"))
    drawn = {}
    for place in (finished, finished / "final", *ends, finished / "final/expander/model.safetensors"):
        code, (picture,), err = draw(capsys, "--model_checkpoint", place, "--prompt", "a circle", "--output", tmp_path)
        assert code == 0, err
        drawn[place.name] = pixels(picture)

    assert drawn[finished.name] == drawn["final"] == drawn[ends[1].name] == drawn["model.safetensors"]
    assert drawn[ends[0].name] != drawn["final"], "the flow was not trained then"


def test_final_of_a_run_that_is_not_finished_is_not_replaced_by_a_checkpoint(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    RunFolder(copy, "x").write_identity(finished=False)

    code, _, err = draw(capsys, "--model_checkpoint", copy / "final", "--prompt", "a circle")

    assert code == 2
    assert "does not exist yet: the run is not finished" in err


def test_a_file_of_several_prompts_numbers_its_images_and_an_empty_file_is_reported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "both.txt").write_text("a star\n\na ring\n")
    _, pictures, _ = draw(capsys, finished, "--text_prompts_path", tmp_path / "both.txt", "--output", tmp_path / "out")
    (tmp_path / "both.txt").write_text("\n")
    code, _, err = draw(capsys, finished, "--text_prompts_path", tmp_path)

    assert [picture.name[:6] for picture in pictures] == ["both-1", "both-2"]
    assert code == 2
    assert "both.txt  the prompt file is empty" in err


def test_a_run_that_was_started_with_a_plugin_file_asks_for_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    run = Path(shutil.copytree(finished, tmp_path / "run"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("type: euler", "type: own_euler"))
    facts = json.loads((run / "environment.json").read_text())
    facts["started_with"]["plugins"] = [str(tmp_path / "own.py"), str(tmp_path / "gone.py")]
    (run / "environment.json").write_text(json.dumps(facts))
    (tmp_path / "own.py").write_text(
        "from fluxflow_flow.samplers import Euler\nfrom fluxflow_registry import hookimpl\n"
        "@hookimpl\ndef fluxflow_register_samplers(register):\n    register('own_euler', Euler)\n"
    )
    monkeypatch.chdir(tmp_path)

    without = draw(capsys, "run", "--prompt", "a star")
    given = draw(capsys, "run", "--prompt", "a star", "--plugin", "own.py")

    assert without[0] == 2
    assert without[2].splitlines() == [
        "run/recipe.yaml  the run was started with `--plugin own.py` `--plugin gone.py`, "
        "which are not loaded now: add them to this command",
        "    command  fluxflow-generate run --prompt 'a star' --plugin own.py --plugin gone.py",
        f"    cause    {tmp_path}/gone.py no longer exists",
        "    status   unknown sampler `own_euler`",
    ]
    assert given[0] == 0, given[2]
    assert len(given[1]) == 1


def test_a_sampler_that_is_a_function_without_options_generates(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(
        "from fluxflow_registry import hookimpl\n"
        "def stay(noise, velocity):\n    return noise - velocity(noise, noise.new_ones(()))\n"
        "@hookimpl\ndef fluxflow_register_samplers(register):\n    register('stay', stay)\n"
    )
    monkeypatch.chdir(tmp_path)

    code, images, err = draw(capsys, finished, "--prompt", "a star", "--plugin", "own.py", "--sampler", "stay")

    assert code == 0, err
    assert len(images) == 1


def test_a_run_without_a_flow_is_one_problem_that_lists_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = re.sub(r"  (text_encoder|flow_processor):.*\n|sampler: .*\n", "", VAE_GAN)
    for name, text in {
        "vae": without,
        "unsampled": re.sub(r"sampler: .*\n|    evaluate:\n.*\n", "", VAE_GAN + FLOW),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(text)

    vae = draw(capsys, tmp_path / "vae", "--prompt", "a star", "--guidance", "3")
    stated = draw(capsys, tmp_path / "vae", "--prompt", "a star", "--sampler", "euler")
    unsampled = draw(capsys, tmp_path / "unsampled", "--prompt", "a star")

    message = "this run cannot generate images from text"
    assert vae[0] == 2
    assert vae[2].splitlines() == [
        f"{tmp_path}/vae/recipe.yaml  {message}",
        "    cause     the run lacks the model `text_encoder`, the model `flow_processor`, a sampler "
        "(set one with `--sampler NAME`)",
        "    received  models compressor, expander, discriminator; steps vae_gan",
        "    hint      use a run whose recipe has all of these, such as recipes/vae_gan_flow.yaml",
    ]
    assert "a sampler" not in stated[2]
    assert "the run lacks a sampler (set one with `--sampler NAME`)" in unsampled[2]
    assert "hint" not in unsampled[2]


@pytest.mark.parametrize(("flag", "value"), [("--steps", "0"), ("--sampler", "huen"), ("--guidance", "-1")])
def test_a_wrong_flag_is_reported_as_a_flag_and_not_as_a_file(
    finished: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit):
        generate.run([str(finished), "--prompt", "x", flag, value, "--json"])

    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["flag"], problem["path"], problem["line"]) == (flag, None, None)


def test_a_folder_of_runs_and_weights_of_fluxflow_are_errors_that_name_what_to_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vae-20260101-000000", "flow-20260102-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("recipe: 1")
    (tmp_path / "flxflow_final.safetensors").write_bytes(b"")

    codes, errors = zip(
        *(
            (code, err)
            for code, _, err in (
                draw(capsys, "--model_checkpoint", path, "--prompt", "x")
                for path in (tmp_path, tmp_path / "flxflow_final.safetensors")
            )
        ),
        strict=True,
    )

    assert codes == (2, 2)
    assert "available  flow-20260102-000000, vae-20260101-000000" in errors[0]
    assert "`flxflow_final.safetensors` is a file outside of any run" in errors[1]
    assert "weights of another program, such as FluxFlow, cannot be used" in errors[1]


def test_weights_that_are_not_finite_are_an_error_that_names_them(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    file = run / "final" / "expander" / "model.safetensors"
    state = load_file(file)
    key = next(name for name, tensor in state.items() if tensor.is_floating_point())
    save_file({**state, key: torch.full_like(state[key], torch.nan)}, file)

    code, pictures, err = draw(capsys, run, "--prompt", "x")

    assert (code, pictures) == (2, [])
    assert f"run/final  `{key}` of model `expander` is not finite" in err


def unreadable(path: Path) -> str:
    """What a file of prompts is, by its name, and what is reported of it."""
    contents = {"blank": b" \n\n", "empty": b"", "bytes": b"a \xff\n", "utf16": "a star\n".encode("utf-16")}
    if path.name in contents:
        path.write_bytes(contents[path.name])
    if path.name == "folder":
        path.mkdir()
    return {
        "blank": "the prompt file is empty",
        "empty": "the prompt file is empty",
        "bytes": "the prompt file is not UTF-8 text",
        "utf16": "the prompt file is UTF-16: save it as UTF-8",
        "folder": "cannot read the prompts: Is a directory",
        "gone": "cannot read the prompts: No such file or directory",
        "nul\0": "cannot read the prompts: no path contains a NUL character",
    }[path.name]


@pytest.mark.parametrize("flag", ["--prompts", "--text-prompts-path"])
@pytest.mark.parametrize("name", ["blank", "empty", "bytes", "utf16", "folder", "gone", "nul\0"])
def test_a_file_of_prompts_that_cannot_be_used_is_named(
    name: str, flag: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = unreadable(tmp_path / name)
    if (name, flag) == ("folder", "--text-prompts-path"):
        reported = "the prompt folder contains no .txt file"

    code, _, err = draw(capsys, finished, flag, f"{tmp_path}/{name}")

    assert code == 2
    assert err.startswith(f"{tmp_path}/{name.rstrip(chr(0))}")
    assert f"  {reported}\n" in err
    assert "Error" not in err


def test_a_file_in_the_place_of_the_output_folder_is_reported_as_by_training(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")

    code, _, err = draw(capsys, finished, "--prompt", "a star", "--output", tmp_path / "out")

    assert code == 2
    assert "`out` is not a folder, but files are written into it\n    hint  move it away" in err
