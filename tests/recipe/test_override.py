"""`--set path.to.key=value` changes one value, with the same checks, and what is wrong is expected at the setting."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.errors import Choices, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.overrides import override
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.recipe.writer import plain

from ..recipes import DEFAULT, TINY

Prove = Callable[..., RecipePlan]


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("seed=7", ["seed"], 7),
        ("steps.vae.epochs=2", ["steps", "vae", "epochs"], 2),
        ("steps.vae.epochs = 2", ["steps", "vae", "epochs"], 2),
        ("name=other", ["name"], "other"),
        ("name='7'", ["name"], "7"),
        ("name=", ["name"], None),
        ("steps.vae.ema={models: [expander]}", ["steps", "vae", "ema", "models", 0], "expander"),
        ("steps.vae.updates.vae.trains.1=other", ["steps", "vae", "updates", "vae", "trains", 1], "other"),
        ("steps.vae.updates.vae.optimizer.lr=1e-3", ["steps", "vae", "updates", "vae", "optimizer", "lr"], 1e-3),
        ("a.b.c=a=b", ["a", "b", "c"], "a=b"),
        ("seed.deeper=1", ["seed", "deeper"], 1),
        ("name.deeper=1", ["name", "deeper"], 1),
    ],
)
def test_a_setting_changes_the_value_at_its_path(setting: str, path: list[Any], value: Any) -> None:
    root = override(parse(TINY, "r.yaml"), setting)

    found = root.plain()
    for part in path:
        found = found[part]
    assert found == value
    assert str(root.at(*path)) == f"--set {setting}"


def test_a_setting_changes_nothing_else() -> None:
    before = parse(TINY, "r.yaml")

    after = override(before, "steps.vae.epochs=2")

    assert after.value["steps"].keys["vae"] == before.value["steps"].keys["vae"]
    assert after.at("models", "expander", "type") == before.at("models", "expander", "type")
    assert before.plain() == parse(TINY, "r.yaml").plain()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", "a setting must have the form `path.to.key=value`"),
        ("seed", "a setting must have the form `path.to.key=value`"),
        ("=1", "a setting must have the form `path.to.key=value`"),
        ("a..b=1", "a setting must have the form `path.to.key=value`"),
        (".=1", "a setting must have the form `path.to.key=value`"),
        (f"{'a.' * 5000}a=1", "a setting must have the form `path.to.key=value`"),
        (
            "seed=[1",
            "this is not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        ("seed=*x", "this is not valid YAML: found undefined alias 'x'"),
        ("seed=!x 1", "the tag `!x` is not allowed: a recipe is plain data"),
        (
            "seed=1\n---\n2",
            "this is not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("steps.vae.updates.vae.trains.2=x", "`2` is not an index of the list of 2 at r.yaml:13:17"),
        ("steps.vae.updates.vae.trains.-1=x", "`-1` is not an index of the list of 2 at r.yaml:13:17"),
        ("steps.vae.updates.vae.trains.²=x", "`²` is not an index of the list of 2 at r.yaml:13:17"),
        ("steps.vae.updates.vae.trains.x=x", "`x` is not an index of the list of 2 at r.yaml:13:17"),
    ],
)
def test_a_malformed_setting_is_reported_at_the_flag(setting: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override(parse(TINY, "r.yaml"), setting)

    (problem,) = caught.value.problems
    assert problem.message == expected
    assert str(problem.where) == f"--set {setting}"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed=true", "`seed` of the recipe must be an integer, got `true`"),
        ("name.deeper=1", "`name` of the recipe must be a string, got a mapping"),
        ("seed.deeper=1", "`seed` of the recipe must be an integer, got a mapping"),
        ("sede=1", "unknown key `sede` in the recipe"),
        ("steps.vae.epochs=2.5", "`epochs` of step `vae` must be an integer, got the number `2.5`"),
        ("steps.vae.epoch=2", "unknown key `epoch` in step `vae`"),
        (
            "steps.vea.epochs=2",
            "step `vea` is not in the recipe; a new step needs `updates`: the optimizer updates to run on each batch, "
            "in order",
        ),
        ("steps.vae.updates.vae.optimizer.lr=-1", "`lr` of optimizer `AdamW` must be > 0, got -1.0"),
        ("steps.vae.updates.vae.optimizer={type: AdamW, lrr: 1}", "unknown key `lrr` in optimizer `AdamW`"),
        ("steps.vae.updates.vae.trains.1=expandre", "update `vae` trains `expandre`, but the recipe has no such model"),
        ("models.expander.type=expandr", "unknown model `expandr`"),
        ("models.expander=null", "model `expander` is empty: write `{}` to use its defaults or `false` to remove it"),
        ("steps.vae.dataset=shape", "`shape` is not a dataset of the recipe"),
        ("steps=null", "the recipe needs `steps`: at least one step, by name"),
        ("recipe=2", "`recipe` must be 1, the version of the recipe language, got the number `2`"),
    ],
)
def test_a_wrong_setting_is_reported_at_the_flag(prove: Prove, setting: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(TINY, setting)

    problem = next(problem for problem in caught.value.problems if str(problem.where) == f"--set {setting}")
    assert problem.message == expected


def test_a_step_that_a_setting_misspells_is_reported_with_the_nearest_step(prove: Prove) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(TINY, "steps.vea.epochs=2")

    assert caught.value.problems[0].nearest == "vae"


def test_settings_are_applied_in_their_order(prove: Prove) -> None:
    checked = prove(TINY, "seed=1", "seed=2", "steps.vae.batch_size=3")

    assert checked.recipe.seed == 2
    assert checked.steps[0].settings.batch_size == 3


def test_a_setting_can_add_a_component_that_the_file_does_not_have(prove: Prove) -> None:
    checked = prove(TINY, "steps.vae.updates.vae.losses.mse.weight=3", "sampler=heun", "sampler.steps=2")

    assert checked.steps[0].updates["vae"].losses["mse"].weight == 3.0
    assert checked.sampler is not None
    assert checked.sampler.instance.steps == 2


@pytest.mark.parametrize(
    "path",
    [
        *("observers.drawings", "values.prompt", "datasets.spare", "models.spare", "sampler"),
        *("steps.last", "steps.last.updates.other", "steps.last.updates.vae.losses.kl", "steps.last.evaluate.seen"),
        *("steps.last.evaluate.seen.metrics.psnr", "steps.last.values.latent", "steps.last.until"),
        *("steps.last.updates.vae.scheduler", "steps.last.updates.vae.balancer"),
    ],
)
def test_a_setting_removes_an_entry_of_the_file_as_if_it_had_never_been_there(prove: Prove, path: str) -> None:
    update = {
        "trains": ["compressor", "expander"],
        "losses": {"l1": {}, "kl": {}},
        "optimizer": "AdamW",
        "scheduler": "CosineAnnealingLR",
        "balancer": "inverse",
    }
    step = {
        "dataset": "shapes",
        "updates": {"vae": update, "other": update},
        "evaluate": {"seen": {"dataset": "shapes", "metrics": {"psnr": {}, "ssim": {}}}},
        "values": {"latent": {}},
        "until": {"type": "loss_threshold", "metric": "vae_loss", "threshold": 0.1},
    }
    tree: dict[str, Any] = {
        "recipe": 1,
        "models": {"compressor": {}, "expander": {}, "spare": {"type": "compressor"}},
        "datasets": {"shapes": {}, "spare": {"type": "shapes"}},
        "sampler": "euler",
        "values": {"prompt": {"dropout": 0.5}},
        "observers": {"drawings": {"type": "pictures", "value": "reconstruction", "dataset": "shapes"}},
        "steps": {"first": step, "last": step},
    }
    whole = prove(json.dumps(tree))
    *above, label = path.split(".")
    left = json.loads(json.dumps(tree))
    part = left
    for key in above:
        part = part[key]
    del part[label]

    found = plain(effective_recipe(prove(json.dumps(tree), f"{path}=false")))

    assert found == plain(effective_recipe(prove(json.dumps(left)))) != plain(effective_recipe(whole))


@pytest.mark.parametrize("console", ["{names: {vae/l1: L1}}", "{type: console, names: {vae/l1: L1}}", "console"])
def test_an_observer_that_joins_every_run_is_removed_even_where_the_file_sets_its_options(
    prove: Prove, console: str
) -> None:
    text = TINY + f"observers: {{console: {console}, drawing: {{type: jsonl}}}}\n"

    checked = prove(text, "observers.console=false", "observers.drawing=false")

    assert not {"console", "drawing"} & set(checked.observers)
    assert "jsonl" in checked.observers


@pytest.mark.parametrize(
    ("setting", "left"), [("{console: false}", {"jsonl"}), ("{}", {"console", "jsonl"}), ("", {"console", "jsonl"})]
)
def test_a_setting_that_replaces_all_observers_removes_those_of_the_file(
    prove: Prove, setting: str, left: set[str]
) -> None:
    text = TINY + "observers: {drawing: {type: samples, dataset: shapes}}\n"

    checked = prove(text, f"observers={setting}")

    assert {"console", "jsonl", "drawing"} & set(checked.observers) == left


def test_an_unknown_observer_cannot_be_removed(prove: Prove) -> None:
    with pytest.raises(RecipeError, match="unknown observer `drawing`"):
        prove(TINY, "observers.drawing=false")


WHOLE = """
recipe: 1
models: {compressor: {}, expander: {}}
datasets: {shapes: {}}
values: {prompt: {dropout: 0.5}}
defaults:
  updates: {vae: {losses: {kl: {}}}}
  evaluate: {seen: {dataset: shapes, metrics: {psnr: {}, ssim: {}}}}
steps:
  vae:
    dataset: shapes
    values: {latent: {}}
    updates:
      vae: {trains: [compressor, expander], losses: {l1: {}}, optimizer: AdamW}
"""


@pytest.mark.parametrize(
    ("path", "meant", "there"),
    [
        ("models.expandr", "expander", "compressor, expander"),
        ("datasets.shape", "shapes", "shapes"),
        ("values.promt", "prompt", "prompt"),
        ("steps.vea", "vae", "vae"),
        ("steps.vae.values.latnt", "latent", "latent, prompt"),
        ("steps.vae.updates.vea", "vae", "vae"),
        ("steps.vae.updates.vae.losses.kll", "kl", "kl, l1"),
        ("steps.vae.evaluate.sen", "seen", "seen"),
        ("steps.vae.evaluate.seen.metrics.pnsr", "psnr", "psnr, ssim"),
        ("defaults.evaluate.sene", "seen", "seen"),
    ],
)
def test_a_setting_cannot_remove_what_does_not_exist(prove: Prove, path: str, meant: str, there: str) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(WHOLE, f"{path}=false")

    (problem,) = caught.value.problems
    *above, label = path.split(".")
    assert problem.message == f"cannot remove `{label}`: there is no such name under `{'.'.join(above)}`"
    assert str(problem.where) == f"--set {path}=false"
    assert problem.choices == Choices(meant, tuple(there.split(", ")))


def test_entries_of_the_defaults_and_removed_entries_can_be_removed(prove: Prove) -> None:
    losses, seen = "steps.vae.updates.vae.losses.kl=false", "steps.vae.evaluate.seen.metrics.ssim=false"

    checked = prove(WHOLE, losses, seen, losses, "sampler=false", "steps.vae.until=false", "models.expander.norm=none")

    (step,) = checked.steps
    assert list(step.updates["vae"].losses) == ["l1"]
    assert list(step.evaluations["seen"].metrics) == ["psnr"]


@pytest.mark.parametrize("setting", ["steps.vae.ema", "steps.vae.best", "steps.vae.updates.vae.clip_grad_norm"])
def test_a_setting_that_null_removes_is_reported_so_when_set_to_false(prove: Prove, setting: str) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(TINY, f"{setting}=false")

    (problem,) = caught.value.problems
    assert str(problem.where) == f"--set {setting}=false"
    assert dict(problem.notes) == {"instead": f"`{setting.rpartition('.')[2]}: null`"}
    prove(TINY, f"{setting}=null")


def test_the_optimizer_of_an_update_cannot_be_removed(prove: Prove) -> None:
    with pytest.raises(RecipeError, match="update `vae` of step `vae` needs `optimizer`: the name of an optimizer"):
        prove(TINY, "steps.vae.updates.vae.optimizer=false")


def test_the_command_reports_a_wrong_setting(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("--validate", DEFAULT, "--set", "steps.flow.epochs=many")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "--set steps.flow.epochs=many  `epochs` of step `flow` must be an integer, got the string `many`\n"
    )


@given(st.text(max_size=20) | st.from_regex(r"[a-c.]{1,6}=[\[\]{}:a0,. ]{0,6}", fullmatch=True))
def test_any_setting_gives_a_tree_or_a_problem(setting: str) -> None:
    try:
        places = [str(override(parse(TINY, "r.yaml"), setting).where)]
    except RecipeError as error:
        places = [str(problem.where) for problem in error.problems]

    assert places in (["r.yaml:1:1"], [f"--set {setting}"])


@pytest.mark.parametrize("value", ["*.tar", "{000..002}.tar", "[a].tar", "@a", "%a", "a: b: c", "!a"])
def test_a_value_that_yaml_does_not_read_as_text_is_shown_quoted(value: str) -> None:
    root = parse("datasets: {mine: {}}", "r.yaml")
    with pytest.raises(RecipeError) as caught:
        override(root, f"datasets.mine.shards={value}")
    (hint,) = [text for label, text in caught.value.problems[0].notes if label == "hint"]

    words = shlex.split(hint.removeprefix("if the value is text, quote it for YAML: "))

    found = override(root, words[1]).find("datasets", "mine", "shards")
    assert words[0] == "--set"
    assert found is not None
    assert found.value == value
