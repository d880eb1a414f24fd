"""What cannot be computed or trained is refused before any weight exists, with who asked and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fluxflow_registry.check.checker import RecipePlan
from fluxflow_registry.contracts import Field
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.registry.registry import Registry, from_modules
from fluxflow_registry.registry.signature import definition

from ..recipes import TINY, line_of
from ..synthetic import plugin
from .made_up import LOSSES, RECIPE, VALUES, Data, Module, Painter, accuracy, build, code, distance, far, flat, sgd

Prove = Callable[..., RecipePlan]


@pytest.fixture(scope="module")
def registry() -> Registry:
    kinds: dict[str, Mapping[str, Any]] = {
        "models": {"build": build},
        "optimizers": {"sgd": sgd},
        "datasets": {"data": Data},
        "values": VALUES,
        "losses": LOSSES,
        "metrics": {"accuracy": accuracy},
        "observers": {"painter": Painter},
    }
    return from_modules({"made_up": plugin(**kinds)})


@pytest.fixture
def refuse(prove: Prove, registry: Registry) -> Callable[..., list[Problem]]:
    """The problems of RECIPE with something else in it."""

    def run(old: str, new: str, using: Registry | None = None) -> list[Problem]:
        assert old in RECIPE
        with pytest.raises(RecipeError) as caught:
            prove(RECIPE.replace(old, new, 1), using=using or registry)
        return list(caught.value.problems)

    return run


Refuse = Callable[..., list[Problem]]


def at(problem: Problem) -> str:
    return re.sub(r".*r\.yaml:", "", str(problem.where))


def test_the_recipe_itself_is_right(prove: Prove, registry: Registry) -> None:
    checked = prove(RECIPE, using=registry)

    assert checked.steps[0].plan.trains == {"encoder"}


def test_an_unknown_value_is_told_with_the_chain_of_askers_and_their_lines(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          lost: {}")

    assert problem.message == "`far` asks for `missing_value`, which nothing provides"
    assert at(problem) == "16:11"
    notes = dict(problem.notes)
    assert notes["asked in"] == f"{definition(far)[0]}  def far(missing_value)"
    assert notes["on the way"] == "loss `lost` of update `turn` in step `step` -> `farther` -> `far`"
    assert notes["available"].startswith("code, critic, egg, encoder")


def test_an_unknown_value_is_told_with_the_nearest_one(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {with: {code: coed}}")

    assert problem.message == "loss `distance` of update `turn` in step `step` asks for `coed`, which nothing provides"
    assert at(problem) == "15:35"
    assert dict(problem.notes)["nearest"] == "code"
    assert dict(problem.notes)["asked in"] == f"{definition(distance)[0]}  def distance(code, image)"


def test_a_value_that_two_losses_miss_is_told_once(refuse: Refuse) -> None:
    losses = "{type: lost}\n          again: {type: lost}"

    problems = refuse("distance: {}", f"distance: {{}}\n          first: {losses}")

    assert len(problems) == 1


def test_a_model_that_is_not_declared_is_told_how_to_declare_it(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distill: {}")

    assert problem.message == "`teacher_code` asks for the model `teacher`, which the recipe does not declare"
    notes = dict(problem.notes)
    assert notes["on the way"] == "loss `distill` of update `turn` in step `step` -> `teacher_code`"
    assert notes["models"] == "critic, encoder"
    assert notes["declare it"].startswith("under `models`: `teacher: {type: ...}`; `--list-plugins model`")


def test_a_misspelt_model_is_told_with_the_one_that_was_meant(refuse: Refuse) -> None:
    problems = refuse("  encoder: build", "  encodr: build")

    assert [(problem.message, at(problem)) for problem in problems] == [
        ("update `turn` trains `encoder`, which is no model of the recipe", "13:18"),
        ("`code` asks for the model `encoder`, which the recipe does not declare", "15:11"),
    ]
    assert all(dict(problem.notes)["nearest"] == "encodr" for problem in problems)


def test_values_that_need_each_other_are_told_as_a_loop(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          breakfast: {}")

    assert problem.message == "values need each other: egg -> hen -> egg"
    assert at(problem) == "16:11"


def test_a_field_and_a_value_of_one_name_are_two_providers(prove: Prove) -> None:
    def image(encoder: Module) -> Any:
        """A value that every dataset has."""

    kinds: dict[str, Mapping[str, Any]] = {
        "models": {"build": build},
        "optimizers": {"sgd": sgd},
        "datasets": {"data": Data},
        "values": {"image": image, "code": code},
        "losses": {"distance": distance},
    }

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE, using=from_modules({"made_up": plugin(**kinds)}))

    (problem,) = caught.value.problems
    assert problem.message == (
        f"`image` has two providers: a field of dataset `data` and a value ({definition(image)[0]})"
    )


def test_a_model_and_a_value_of_one_name_are_two_providers(refuse: Refuse) -> None:
    problems = refuse("  critic: build", "  critic: build\n  code: build")

    assert problems[0].message.startswith("`code` has two providers: a model of the recipe and a value (")


def test_a_field_may_not_take_a_name_of_the_engine(prove: Prove) -> None:
    class Odd(Data):
        def fields(self) -> dict[str, Field]:
            return {"image": Field((1,)), "generator": Field((1,))}

    def noisy(image: Any, generator: Any, encoder: Module) -> Any:
        """A loss that draws."""

    kinds: dict[str, Mapping[str, Any]] = {
        "models": {"build": build},
        "optimizers": {"sgd": sgd},
        "datasets": {"data": Odd},
        "losses": {"distance": noisy},
    }

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE, using=from_modules({"made_up": plugin(**kinds)}))

    (problem,) = caught.value.problems
    assert problem.message == "`generator` has two providers: a field of dataset `data` and the engine itself"


def test_a_loss_that_no_trained_model_can_influence_is_refused(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          flat: {}")

    assert problem.message == "loss `flat` moves nothing that update `turn` trains"
    assert at(problem) == "16:11"
    assert dict(problem.notes) == {
        "depends on": "no model",
        "trained": "`encoder`",
        "asked in": f"{definition(flat)[0]}  def flat(image)",
    }


def test_a_loss_of_a_model_that_another_update_trains_is_refused(refuse: Refuse) -> None:
    problems = refuse("trains: [encoder]", "trains: [critic]")

    assert [problem.message for problem in problems] == [
        "update `turn` trains `critic`, but none of its losses reaches it",
        "loss `distance` moves nothing that update `turn` trains",
    ]
    assert at(problems[0]) == "13:18"
    assert dict(problems[0].notes) == {"distance": "reaches no model"}
    assert dict(problems[1].notes)["depends on"] == "`encoder`"


def test_a_trained_model_that_no_loss_reaches_is_refused_at_its_place(refuse: Refuse) -> None:
    (problem,) = refuse("trains: [encoder]", "trains: [encoder, critic]")

    assert problem.message == "update `turn` trains `critic`, but none of its losses reaches it"
    assert at(problem) == "13:27"
    assert dict(problem.notes) == {"distance": "reaches `encoder`"}


def test_a_cut_that_keeps_a_loss_from_all_that_is_trained_is_refused(refuse: Refuse) -> None:
    problems = refuse("distance: {}", "distance: {detach: [code]}")

    assert [problem.message for problem in problems] == [
        "update `turn` trains `encoder`, but none of its losses reaches it",
        "loss `distance` moves nothing that update `turn` trains",
    ]
    assert dict(problems[0].notes) == {"distance": "reaches no model, cut at `code`"}
    assert dict(problems[1].notes)["depends on"] == "`encoder`, cut at `code`"


@pytest.mark.parametrize(
    ("name", "told", "nearest"),
    [
        ("score", "loss `distance` has nothing to detach at `score`: it does not depend on `score`", None),
        ("cdoe", "loss `distance` has nothing to detach at `cdoe`: it does not depend on `cdoe`", "code"),
        ("image", "loss `distance` has nothing to detach at `image`: `image` is given, not computed", None),
        ("encoder", "loss `distance` has nothing to detach at `encoder`: `encoder` is given, not computed", None),
    ],
)
def test_a_cut_where_nothing_flows_is_refused_at_its_place(
    refuse: Refuse, name: str, told: str, nearest: str | None
) -> None:
    (problem,) = refuse("distance: {}", f"distance: {{detach: [{name}]}}")

    assert problem.message == told
    assert at(problem) == "15:31"
    assert nearest is None or dict(problem.notes)["nearest"] == nearest
    assert dict(problem.notes)["depends on"] == "code"


def test_a_need_that_a_component_does_not_have_cannot_be_renamed(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {with: {imag: code}}")

    assert problem.message == "`distance` does not ask for `imag`, so it cannot be given another value for it"
    assert at(problem) == "15:29"
    assert dict(problem.notes) == {"nearest": "image", "asks for": "code, image"}


def test_a_renamed_need_is_filled_by_the_other_value(prove: Prove, registry: Registry) -> None:
    values = "values: {mine: {type: code, with: {encoder: critic}}}\nsteps:"
    text = RECIPE.replace("steps:", values).replace("distance: {}", "distance: {with: {image: mine}}")

    plan = prove(text, using=registry).steps[0].plan

    assert plan.updates[0].losses[0].needs == {"code": "code", "image": "mine"}
    assert plan.values["mine"].models == {"critic"}


def test_a_value_of_the_recipe_that_cannot_be_read_is_told_and_not_missed_too(refuse: Refuse) -> None:
    problems = refuse(
        "steps:\n  step:\n    dataset: data\n    updates:\n      turn:\n        trains: [encoder]\n        losses:\n"
        "          distance: {}",
        "values: {mine: {type: cdoe}}\nsteps:\n  step:\n    dataset: data\n    updates:\n      turn:\n"
        "        trains: [encoder]\n        losses:\n          distance: {with: {image: mine}}",
    )

    assert [problem.message for problem in problems] == ["unknown value `cdoe`"]


def test_a_value_with_options_that_nobody_states_is_told_to_wait_for_them(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          scaled_size: {}")

    assert problem.message == (
        "loss `scaled_size` of update `turn` in step `step` asks for `scaled`, "
        "which has options that the recipe must state"
    )
    assert dict(problem.notes)["state them"] == (
        "under `values`: `scaled: {...}`; `--describe value:scaled` shows them"
    )


def test_a_value_with_options_that_the_recipe_states_is_there(prove: Prove, registry: Registry) -> None:
    text = RECIPE.replace("steps:", "values: {scaled: {scale: 2}}\nsteps:").replace("distance: {}", "scaled_size: {}")

    checked = prove(text, using=registry)

    assert checked.steps[0].providers["scaled"].instance.scale == 2.0


def test_a_metric_is_told_of_what_its_dataset_lacks(refuse: Refuse) -> None:
    evaluate = "dataset: data\n    evaluate: {held: {dataset: data, metrics: {accuracy: {}}}}"

    (problem,) = refuse("dataset: data", evaluate)

    assert problem.message == (
        "metric `accuracy` in evaluation `held` of step `step` asks for `label`, which nothing provides"
    )
    assert at(problem) == "11:48"


def test_a_sampler_that_the_recipe_does_not_state_is_told_how_to_state_it(prove: Prove) -> None:
    text = TINY.replace(
        "dataset: shapes", "dataset: shapes\n    evaluate: {e: {dataset: shapes, metrics: {shapes_judge: {}}}}"
    )
    needed = "models:\n  text_encoder: text_transformer\n  flow_processor: flow_transformer\n"

    with pytest.raises(RecipeError) as caught:
        prove(text.replace("models:\n", needed))

    (problem,) = caught.value.problems
    assert problem.message == "`generated_image` asks for `sampler`, which the recipe does not state"
    assert dict(problem.notes)["state it"] == "`sampler: {type: ...}`; `--list-plugins sampler` shows the types"


@pytest.mark.parametrize(
    ("options", "column", "told"),
    [
        ("{what: cdoe}", 29, "observer `painter` asks for `cdoe`, which nothing provides"),
        ("{where: dta}", 30, "`dta` is no dataset of the recipe"),
        ("{steps: [stpe]}", 31, "observer `painter` draws in step `stpe`, which there is not"),
    ],
)
def test_what_an_observer_wants_to_draw_is_checked_too(refuse: Refuse, options: str, column: int, told: str) -> None:
    (problem,) = refuse("steps:", f"observers: {{painter: {options}}}\nsteps:")

    assert problem.message == told
    assert at(problem) == f"{line_of(RECIPE, 'steps:')}:{column}"
    assert "nearest" in dict(problem.notes)


def test_what_an_observer_draws_only_if_it_can_is_no_problem_of_a_recipe_without_it(
    prove: Prove, registry: Registry
) -> None:
    recipe = RECIPE.replace("steps:", "observers: {painter: {if_possible: [teacher_code, nothing]}}\nsteps:")

    checked = prove(recipe, using=registry)

    assert "painter" in checked.observers


@pytest.mark.parametrize("error", [ValueError("bad options"), KeyError("k"), FileNotFoundError(2, "No such file")])
def test_whatever_a_component_raises_while_it_is_asked_is_told(prove: Prove, error: Exception) -> None:
    class Raising(Data):
        def fields(self) -> dict[str, Field]:
            raise error

    kinds: dict[str, Mapping[str, Any]] = {
        "models": {"build": build},
        "optimizers": {"sgd": sgd},
        "datasets": {"data": Raising},
        "values": VALUES,
        "losses": LOSSES,
    }

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE, using=from_modules({"made_up": plugin(**kinds)}))

    (problem,) = caught.value.problems
    assert problem.message.startswith(f"`fields` of dataset `data` fails: {type(error).__name__}: ")
    assert at(problem) == "7:9"
