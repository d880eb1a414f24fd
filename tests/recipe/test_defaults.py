"""`defaults` are laid under every step, deeply; what is wrong in them is expected once, where they stand."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.errors import Choices, Place, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.node import Node, merge
from fluxflow_registry.recipe.writer import dump

from ..recipes import TINY, steps

Prove = Callable[..., RecipePlan]


def with_defaults(defaults: str, *names: str) -> str:
    text = steps(*(names or ("one", "two")))
    return text.replace("steps:\n", f"defaults: {defaults}\nsteps:\n")


def optimizers(checked: RecipePlan) -> list[Any]:
    return [step.updates["vae"].optimizer.instance for step in checked.steps]


def test_a_default_holds_for_every_step_that_does_not_override_it(prove: Prove) -> None:
    text = with_defaults("{epochs: 3, batch_size: 5}").replace("  two:\n", "  two:\n    epochs: 7\n")

    checked = prove(text)

    settings = [step.settings for step in checked.steps]
    assert [(each.epochs, each.batch_size) for each in settings] == [(3, 5), (7, 5)]


def test_options_of_one_component_are_merged(prove: Prove) -> None:
    text = with_defaults("{updates: {vae: {optimizer: {type: AdamW, lr: 0.5, eps: 0.25}}}}")

    checked = prove(text.replace("{type: AdamW}", "{lr: 0.125}"))

    assert [(made.lr, made.eps) for made in optimizers(checked)] == [(0.125, 0.25)] * 2


def test_another_type_replaces_the_component_with_its_options(prove: Prove) -> None:
    text = with_defaults("{updates: {vae: {optimizer: {type: AdamW, lr: 0.5, eps: 0.25}}}}")

    checked = prove(text.replace("{type: AdamW}", "{type: SGD}"))

    assert [type(made).__name__ for made in optimizers(checked)] == ["SGDBuilder", "SGDBuilder"]
    assert [made.lr for made in optimizers(checked)] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ("default", "own", "lr"),
    [
        ("AdamW", "{lr: 0.125}", 0.125),
        ("AdamW", "{type: AdamW, lr: 0.125}", 0.125),
        ("{type: AdamW, lr: 0.5}", "AdamW", 0.5),
        ("{type: AdamW, lr: 0.5}", "SGD", 1e-3),
        ("SGD", "AdamW", 1e-3),
    ],
)
def test_a_name_alone_is_merged_like_the_mapping_that_it_stands_for(
    prove: Prove, default: str, own: str, lr: float
) -> None:
    text = with_defaults(f"{{updates: {{vae: {{optimizer: {default}}}}}}}").replace("{type: AdamW}", own)

    checked = prove(text)

    assert [made.lr for made in optimizers(checked)] == [lr, lr]


def test_a_step_may_remove_entries_of_the_defaults(prove: Prove) -> None:
    shared = "{updates: {vae: {losses: {mse: {}, ssim: {}}}}, evaluate: {e: {dataset: shapes, metrics: {psnr: {}}}}}"
    text = with_defaults(shared).replace("l1: {}", "l1: {}\n          mse: false", 1)
    text = text.replace("  two:\n", "  two:\n    evaluate: {e: false}\n")

    checked = prove(text)

    assert [list(step.updates["vae"].losses) for step in checked.steps] == [["l1", "ssim"], ["l1", "mse", "ssim"]]
    assert [list(step.evaluations) for step in checked.steps] == [["e"], []]


def test_defaults_of_an_update_hold_only_for_steps_that_have_it(prove: Prove) -> None:
    text = with_defaults("{updates: {vae: {clip_grad_norm: 2.0}, other: {clip_grad_norm: 3.0}}}")
    head, last = text.rsplit("      vae:\n", 1)

    checked = prove(f"{head}      other:\n{last}")

    clips = [
        {name: update.entry.settings.clip_grad_norm for name, update in step.updates.items()} for step in checked.steps
    ]
    assert clips == [{"vae": 2.0}, {"other": 3.0}]


def test_updates_run_in_the_order_of_the_step_and_not_of_the_defaults(prove: Prove) -> None:
    text = with_defaults("{updates: {two: {clip_grad_norm: 2.0}, vae: {clip_grad_norm: 1.0}}}", "only")
    turn = text[text.index("      vae:\n") :]

    checked = prove(text + turn.replace("vae:", "two:"))

    assert list(checked.steps[0].updates) == ["vae", "two"]
    assert [update.entry.settings.clip_grad_norm for update in checked.steps[0].updates.values()] == [1.0, 2.0]


def test_defaults_of_an_update_that_no_step_has_are_rejected(prove: Prove) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(with_defaults("{updates: {vea: {clip_grad_norm: 2.0}}}"))

    (problem,) = caught.value.problems
    assert problem.message == "`defaults` has settings for update `vea`, but no step has such an update"
    assert str(problem.where).endswith("r.yaml:8:22")
    assert problem.choices == Choices("vae", ("vae",))


@pytest.mark.parametrize(
    ("defaults", "where", "expected"),
    [
        ("{epohcs: 3}", "8:12", "unknown key `epohcs` in `defaults`"),
        ("{epochs: many}", "8:20", "`epochs` of step `one` must be an integer, got the string `many`"),
        ("{evaluate: {e: {dataset: shapes, metrics: psnr}}}", "8:53", "`metrics` must be a mapping, got the string"),
        ("{until: {type: epoch, max: 3}}", "8:33", "unknown key `max` in transition `epoch`"),
        ("{until: {type: epcoh}}", "8:26", "unknown transition `epcoh` in step `one`"),
        ("{ema: {models: [compresser]}}", "8:27", "step `one` averages `compresser`, but none of its updates"),
        ("{values: {latent: {sampel: false}}}", "8:30", "unknown key `sampel` in value `latent`"),
        ("{updates: {vae: {losses: {l1: {wieght: 1}}}}}", "8:42", "unknown key `wieght` in loss `l1`"),
        ("{updates: {vae: {losses: {mes: {}}}}}", "8:37", "unknown loss `mes` in step `one`, update `vae`"),
        ("{updates: {vae: {losses: {l1: {with: {image: im}}}}}}", "8:56", "requests `im`, but nothing provides it"),
        ("{updates: {vae: {losses: {l1: {detach: [im]}}}}}", "8:51", "loss `l1` cannot detach `im`"),
        ("{updates: 5}", "8:21", "`updates` must be a mapping, got the number `5`"),
        ("{1: 2}", "8:12", "unknown key `1` in `defaults`"),
    ],
)
def test_a_problem_in_defaults_is_reported_once_where_it_is(
    prove: Prove, defaults: str, where: str, expected: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(with_defaults(defaults))

    (problem,) = caught.value.problems
    assert expected in problem.message
    assert str(problem.where).endswith(f"r.yaml:{where}")


def test_an_unknown_dataset_in_the_defaults_is_reported_once(prove: Prove) -> None:
    text = with_defaults("{dataset: shapse}").replace("    dataset: shapes\n", "")

    with pytest.raises(RecipeError) as caught:
        prove(text)

    (problem,) = caught.value.problems
    assert problem.message == "`shapse` is not a dataset of the recipe"
    assert str(problem.where).endswith("r.yaml:8:21")
    assert problem.nearest == "shapes"


def test_a_misspelled_setting_of_the_defaults_is_not_reported_as_missing_in_every_step(prove: Prove) -> None:
    text = with_defaults("{datset: shapes}").replace("    dataset: shapes\n", "")

    with pytest.raises(RecipeError) as caught:
        prove(text)

    assert [problem.message for problem in caught.value.problems] == ["unknown key `datset` in `defaults`"]


def test_a_value_of_a_step_is_merged_over_the_value_of_that_name_in_the_recipe(prove: Prove) -> None:
    shared = "values: {mine: {type: latent, sample: false, with: {posterior: posterior}}}\nsteps:"
    own = "    dataset: shapes\n    values: {mine: {}, latent: {sample: false}}\n"
    text = TINY.replace("steps:", shared).replace("    dataset: shapes\n", own)

    checked = prove(text)

    providers = checked.steps[0].providers
    assert providers["mine"].component.name == "latent"
    assert providers["mine"].instance.sample is False
    assert providers["latent"].instance.sample is False
    assert checked.values["mine"].instance.sample is False


def test_a_value_that_the_first_step_sets_is_not_set_for_the_others_when_it_is_written_out(prove: Prove) -> None:
    text = steps("one", "two").replace("steps:", "values: {latent: {sample: true}}\nsteps:")
    text = text.replace("  one:\n", "  one:\n    values: {latent: {sample: false}}\n")

    again = prove(dump(effective_recipe(prove(text))))

    assert [step.providers["latent"].instance.sample for step in again.steps] == [False, True]


keys = st.sampled_from(["a", "b", "c", "type"])
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(string.ascii_lowercase, max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def place(value: Any, where: str) -> Node:
    if isinstance(value, list):
        return Node([place(item, where) for item in value], where, {})
    if isinstance(value, dict):
        return Node({key: place(item, where) for key, item in value.items()}, where, dict.fromkeys(value, Place(where)))
    return Node(value, where, {})


def spelt(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def laid(base: Any, over: Any) -> Any:
    """What merging means, said once more on plain values."""
    if isinstance(over, dict) and isinstance(base, (dict, str)):
        base = spelt(base)
    elif isinstance(over, str) and isinstance(base, dict) and "type" in base:
        over = spelt(over)
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "type" in base and "type" in over and (plainly(base["type"]) != plainly(over["type"])):
        return over
    both = {**over, **base, **over}
    return {key: laid(base[key], over[key]) if key in base and key in over else both[key] for key in both}


def plainly(value: Any) -> Any:
    """What makes two types the same: lists and mappings with anything in them never are."""
    return object() if isinstance(value, (list, dict)) and value else (type(value).__name__, value)


@given(trees, trees)
def test_merging_is_deep_and_keeps_the_location_of_every_value(base: Any, over: Any) -> None:
    merged = merge(place(base, "base"), place(over, "over"))

    assert merged.plain() == laid(base, over)
    assert_placed(merged, base, over)


def assert_placed(merged: Node, base: Any, over: Any) -> None:
    assert str(merged.where) in ("base", "over")
    if isinstance(merged.value, dict):
        assert set(merged.keys) == set(merged.value)
        for key, child in merged.value.items():
            if isinstance(over, dict) and key in over:
                assert merged.keys[key] == Place("over")
            assert_placed(child, base, None)


@given(trees)
def test_merging_with_nothing_changes_nothing(tree: Any) -> None:
    node = place(tree, "over")

    assert merge(Node({}, "base", {}), node).plain() == tree
    assert merge(node, node).plain() == laid(tree, tree)
