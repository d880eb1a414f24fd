"""Every example of FluxFlow's pages trains with `fluxflow-train`, word for word, or is rejected as the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxflow_registry.errors import RecipeError
from fluxflow_registry.registry.registry import Registry

from .fluxflow import DATA, FILES, drive, example, moved, step, translated, whole, write_images

#: Sizes of a small discriminator.
DISCRIMINATOR = ("models.discriminator.width=8", "models.discriminator.context_width=4")

#: Whole configurations, and for each step the models that it trains.
VAE = {"compressor", "expander"}
FLOW = {"flow_processor", "text_encoder"}
PIPELINES = {
    "readme_pipeline": [VAE, {*VAE, "discriminator"}, FLOW],
    "readme_gan_only": [{*VAE, "discriminator"}],
    "readme_cfg": [FLOW],
    "readme_shape": [VAE],
    "minimal": [VAE, {*VAE, "discriminator"}],
    "complete": [VAE, {*VAE, "discriminator"}],
}

#: Keys of one step: the modes to add so that the step trains something, and the models that it then trains.
STEPS = {
    "step_gan_only": ({}, {*VAE, "discriminator"}),
    "step_reconstruction": ({}, VAE),
    "step_freeze": ({"train_vae": True}, {"compressor"}),
    "step_loss_weights": ({"train_vae": True, "gan_training": True, "use_lpips": True}, {*VAE, "discriminator"}),
    "step_optimization": (
        {"train_vae": True, "gan_training": True, "train_diff": True},
        {*VAE, *FLOW, "discriminator"},
    ),
    "step_epoch": ({"train_vae": True}, VAE),
    "step_loss_threshold": ({"train_vae": True}, VAE),
    "step_max_steps": ({"train_vae": True}, VAE),
}

#: Texts that show parts of a file.
PARTS = {"structure", "steps_auto_create", "steps_initialise", "readme_old_and_new", "wrong_and_correct", "readme_flat"}


def test_every_example_is_a_test() -> None:
    assert {path.stem for path in FILES.glob("*.yaml")} == {*PIPELINES, *STEPS, *PARTS}


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with images and captions, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)


@pytest.mark.parametrize("name", PIPELINES)
def test_each_step_of_a_pipeline_trains_its_models_and_no_others(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], everything: Registry
) -> None:
    done = drive(tmp_path, capsys, whole(example(name)))

    assert done.code == 0, done.err
    before = done.before(everything)
    for step_, trained in zip(done.recipe()["steps"], PIPELINES[name], strict=True):
        after = done.weights(step_)
        assert moved(before, after) == trained
        before = after


@pytest.mark.parametrize("name", STEPS)
def test_the_keys_of_a_step_train_their_models(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], everything: Registry
) -> None:
    modes, trained = STEPS[name]

    done = drive(tmp_path, capsys, whole(step(example(name), **modes)))

    assert done.code == 0, done.err
    assert moved(done.before(everything), done.weights("one")) == trained


def test_the_flat_configuration_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], everything: Registry
) -> None:
    """Its sizes are made small from the command line; not a letter of it is changed."""
    small = ["latent_channels=4", "width=8"]
    settings = [f"models.{model}.{size}" for model in sorted(VAE) for size in small]
    settings += ["datasets.images={type: folder, path: pictures, captions: captions.txt, image_size: 32}"]
    given = [item for setting in (*settings, *DISCRIMINATOR) for item in ("--set", setting)]

    done = drive(tmp_path, capsys, example("readme_flat"), *given)

    assert done.code == 0, done.err
    assert moved(done.before(everything), done.weights("training")) == {*VAE, "discriminator"}
    assert done.run.parent == tmp_path / "outputs" / "flux"


def test_steps_without_a_mode_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        translated(tmp_path, whole(example("structure")))

    assert [(problem.code, problem.subject) for problem in caught.value.problems] == [
        ("nothing-to-train", "step1"),
        ("nothing-to-train", "step2"),
    ]


def test_defaults_apply_to_each_step(tmp_path: Path, capsys: pytest.CaptureFixture[str], everything: Registry) -> None:
    text = example("structure").replace("# ... step config", "train_vae: true\n        train_diff: true")

    done = drive(tmp_path, capsys, whole(text))

    steps = done.recipe()["steps"]
    assert done.code == 0, done.err
    assert [step_["updates"]["vae"]["optimizer"]["lr"] for step_ in steps.values()] == [1e-4, 1e-4]
    assert moved(done.before(everything), done.weights("step2")) == {*VAE, "flow_processor"}


@pytest.mark.parametrize("name", ["steps_auto_create", "steps_initialise"])
def test_models_that_no_file_declares_are_created_with_a_note(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    indented = "".join(f"    {line}\n" for line in example(name).splitlines())
    text = f"training:\n  pipeline:\n    defaults: {{n_epochs: 1}}\n{indented}{DATA}"

    small = ("text_encoder.width", "flow_processor.text_width", "compressor.width", "expander.width")
    given = [item for key in (*small, "text_encoder.heads") for item in ("--set", f"models.{key}=8")]

    done = drive(tmp_path, capsys, text, *given)

    assert done.code == 0, done.err
    assert "Auto-created flow_processor with feature_maps_dim=128" in done.err
    assert "Auto-created text_encoder with text_embedding_dim=1024" in done.err


@pytest.mark.parametrize("name", ["readme_old_and_new", "wrong_and_correct"])
def test_the_old_form_is_rejected_with_the_new_one_and_the_new_one_is_read(name: str, tmp_path: Path) -> None:
    text = example(name)
    if not text.splitlines()[1].startswith("training"):
        text = "\n".join(line if line.startswith("#") else f"  {line}" for line in text.splitlines())
        text = "\n".join(f"{line}\ntraining:" if line.startswith("#") else line for line in text.splitlines())
    old, new = (f"training:{part}" for part in text.split("training:")[1:])

    with pytest.raises(RecipeError) as caught:
        translated(tmp_path, whole(old.split("#")[0]))
    keys = "\n        n_epochs: 1\n        train_vae: true\n"
    read = translated(tmp_path, whole(new.split("#")[0].rstrip() + keys))

    (problem,) = caught.value.problems
    assert problem.message == "`pipeline` is a list, as in early versions of FluxFlow: move the steps under `steps`"
    assert problem.where is not None
    assert str(problem.where).endswith("config.yaml:3:5")
    assert dict(problem.notes)["instead"] == 'pipeline:\n  steps:\n    - name: "step1"'
    assert [each.name for each in read.config.steps] == ["step1"]
