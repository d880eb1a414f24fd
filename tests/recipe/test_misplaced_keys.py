"""A key that is valid at another depth of the recipe is answered with its full path, not with other keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan

from ..recipes import TINY
from ..small import FLOW, VAE_GAN

TEXT = VAE_GAN + FLOW

STEP = "steps.vae_gan"
VAE = f"{STEP}.updates.vae"
GAN = f"{STEP}.updates.discriminator"


@pytest.fixture
def problems(prove: Callable[..., RecipePlan]) -> Callable[..., tuple[Problem, ...]]:
    """What is wrong with a recipe."""

    def report(text: str, *settings: str) -> tuple[Problem, ...]:
        with pytest.raises(RecipeError) as caught:
            prove(text, *settings)
        return caught.value.problems

    return report


#: Keys at a wrong depth, and the paths at which each of them is valid.
MISPLACED = {
    f"{STEP}.lr=0.1": [f"{GAN}.optimizer.lr", f"{VAE}.optimizer.lr"],
    f"{VAE}.lr=0.1": [f"{VAE}.optimizer.lr"],
    f"{VAE}.scheduler.lr=0.1": [f"{VAE}.optimizer.lr"],
    f"{VAE}.optimizer.T_max=5": [f"{VAE}.scheduler.T_max"],
    f"{VAE}.losses.kl.clip_grad_norm=1.0": [f"{VAE}.clip_grad_norm"],
    f"{VAE}.epochs=3": [f"{STEP}.epochs"],
    f"{VAE}.optimizer.max_steps=3": [f"{STEP}.max_steps"],
    f"{VAE}.losses.kl.epochs=3": [f"{STEP}.epochs"],
    f"{VAE}.mse={{}}": [f"{VAE}.losses.mse"],
    f"{STEP}.trains=[compressor]": [f"{GAN}.trains", f"{VAE}.trains"],
    f"{STEP}.optimizer=AdamW": [f"{GAN}.optimizer", f"{VAE}.optimizer"],
    f"{STEP}.seed=3": ["seed"],
    "defaults.models={}": ["models"],
    "epochs=3": ["defaults.epochs", f"{STEP}.epochs", "steps.flow.epochs"],
    "weight_decay=0.1": [f"{GAN}.optimizer.weight_decay", f"{VAE}.optimizer.weight_decay"],
    "datasets.shapes.log_every=3": ["defaults.log_every", f"{STEP}.log_every"],
    "steps.flow.psnr={}": ["steps.flow.evaluate.seen.metrics.psnr"],
    "models.compressor.image_size=32": ["datasets.shapes.image_size"],
    "steps.flow.decay=0.9": ["steps.flow.ema.decay"],
    "steps.flow.ema.epochs=3": ["steps.flow.epochs"],
    f"{STEP}.metrics={{psnr: {{}}}}": [f"{STEP}.evaluate.NAME.metrics"],
    f"{VAE}.dataset=shapes": [f"{STEP}.dataset"],
}


@pytest.mark.parametrize("setting", MISPLACED)
def test_a_key_that_belongs_elsewhere_is_answered_with_its_full_path(
    problems: Callable[..., tuple[Problem, ...]], setting: str
) -> None:
    (problem,) = problems(TEXT, setting)

    assert problem.code == "unknown-key"
    assert problem.choices is None
    shown = dict(problem.notes)["instead"].split(", ")
    assert shown[: len(MISPLACED[setting])] == [f"`{path}`" for path in MISPLACED[setting]]


def test_a_key_of_the_file_is_answered_where_it_stands(problems: Callable[..., tuple[Problem, ...]]) -> None:
    text = TEXT.replace("  vae_gan:\n", "  vae_gan:\n    lr: 0.1\n")

    (problem,) = problems(text)

    assert str(problem).endswith(f"    instead  `{GAN}.optimizer.lr`, `{VAE}.optimizer.lr`")


def test_the_keys_of_an_update_in_a_step_without_updates_are_answered_with_the_level_between(
    problems: Callable[..., tuple[Problem, ...]],
) -> None:
    text = TINY.replace("    updates:\n      vae:\n", "").replace("\n        ", "\n    ")

    found = problems(text)

    instead = [dict(each.notes)["instead"] for each in found if each.code == "unknown-key"]
    assert instead == [f"`steps.vae.updates.NAME.{key}`" for key in ("trains", "losses", "optimizer")]


@pytest.mark.parametrize(
    "setting",
    ["models.expander.heads=2", f"{VAE}.losses.l1.detached=[]", f"{VAE}.losses.l1.epsilon=0.1", f"{STEP}.epoch=3"],
)
def test_an_option_of_a_sibling_or_a_misspelled_key_is_answered_with_the_valid_keys(
    problems: Callable[..., tuple[Problem, ...]], setting: str
) -> None:
    (problem,) = problems(TEXT, setting)

    assert problem.choices is not None
    assert "instead" not in dict(problem.notes)


@pytest.mark.parametrize(
    ("setting", "kind", "path"),
    [
        ("steps.epochs=3", "a step", "steps.NAME.epochs"),
        (f"{STEP}.updates.trains=[compressor]", "an update", "updates.NAME.trains"),
        ("steps.flow.evaluate.metrics=[psnr]", "an evaluation", "evaluate.NAME.metrics"),
        (f"{VAE}.losses.weight=0.1", "a loss", "losses.NAME.weight"),
        (f"{VAE}.losses.every=2", "a loss", "losses.NAME.every"),
        ("models.compile=true", "a model", "models.NAME.compile"),
        ("datasets.batch_size=4", "a dataset", "datasets.NAME.batch_size"),
    ],
)
def test_a_key_one_level_above_the_name_of_its_owner_is_answered_with_the_level_that_is_missing(
    problems: Callable[..., tuple[Problem, ...]], setting: str, kind: str, path: str
) -> None:
    found = problems(TEXT, setting)

    (hint,) = [text for problem in found for label, text in problem.notes if label == "hint"]
    assert hint == f"`{path.rpartition('.')[2]}` is a key of {kind}, which needs a name: `{path}`"
