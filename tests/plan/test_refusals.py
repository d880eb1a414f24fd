"""What cannot be computed or trained is refused before any weight exists, with who asked and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fluxflow_registry.contracts import Field
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import from_modules
from fluxflow_registry.registry.registry import Registry
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

    assert checked.steps[0].trains == {"encoder"}


def test_an_unknown_value_is_reported_with_the_chain_of_requests_and_their_lines(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          lost: {}")

    assert problem.message == "`far` requests `missing_value`, but nothing provides it"
    assert at(problem) == "16:11"
    notes = dict(problem.notes)
    assert notes["defined in"] == f"{definition(far)[0]}  def far(missing_value)"
    assert notes["requested by"] == "loss `lost` of update `turn` in step `step` -> `farther` -> `far`"
    assert problem.choices is not None
    assert problem.choices.available[:4] == ("code", "critic", "egg", "encoder")


def test_an_unknown_value_is_reported_with_the_nearest_one(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {with: {code: coed}}")

    assert problem.message == "loss `distance` of update `turn` in step `step` requests `coed`, but nothing provides it"
    assert at(problem) == "15:35"
    assert problem.nearest == "code"
    assert dict(problem.notes)["defined in"] == f"{definition(distance)[0]}  def distance(code, image)"


def test_a_value_that_two_losses_miss_is_reported_once(refuse: Refuse) -> None:
    losses = "{type: lost}\n          again: {type: lost}"

    problems = refuse("distance: {}", f"distance: {{}}\n          first: {losses}")

    assert len(problems) == 1


def test_a_model_that_is_not_declared_is_reported_with_how_to_declare_it(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distill: {}")

    assert problem.message == "`teacher_code` requests the model `teacher`, but the recipe declares no such model"
    notes = dict(problem.notes)
    assert notes["requested by"] == "loss `distill` of update `turn` in step `step` -> `teacher_code`"
    assert problem.choices is not None
    assert problem.choices.available == ("critic", "encoder")
    assert notes["hint"].startswith("declare it under `models`: `teacher: {type: ...}`; `--list-plugins model`")


def test_a_misspelled_model_is_reported_with_the_nearest_name(refuse: Refuse) -> None:
    problems = refuse("  encoder: build", "  encodr: build")

    assert [(problem.message, at(problem)) for problem in problems] == [
        ("update `turn` trains `encoder`, but the recipe has no such model", "13:18"),
        ("`code` requests the model `encoder`, but the recipe declares no such model", "15:11"),
    ]
    assert all(problem.nearest == "encodr" for problem in problems)


def test_values_that_need_each_other_are_reported_as_a_cycle(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          breakfast: {}")

    assert problem.message == "values depend on each other: egg -> hen -> egg"
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

    assert problem.message == "loss `flat` reaches no model that update `turn` trains"
    assert at(problem) == "16:11"
    assert dict(problem.notes) == {
        "cause": "it depends on no model, and the update trains `encoder`",
        "defined in": f"{definition(flat)[0]}  def flat(image)",
    }


def test_a_loss_of_a_model_that_another_update_trains_is_refused(refuse: Refuse) -> None:
    problems = refuse("trains: [encoder]", "trains: [critic]")

    assert [problem.message for problem in problems] == [
        "update `turn` trains `critic`, but none of its losses reaches it",
        "loss `distance` reaches no model that update `turn` trains",
    ]
    assert at(problems[0]) == "13:18"
    assert dict(problems[0].notes) == {"cause": "loss `distance` reaches no model"}
    assert dict(problems[1].notes)["cause"].startswith("it depends on `encoder`, and the update trains ")


def test_a_trained_model_that_no_loss_reaches_is_refused_at_its_place(refuse: Refuse) -> None:
    (problem,) = refuse("trains: [encoder]", "trains: [encoder, critic]")

    assert problem.message == "update `turn` trains `critic`, but none of its losses reaches it"
    assert at(problem) == "13:27"
    assert dict(problem.notes) == {"cause": "loss `distance` reaches `encoder`"}


def test_a_cut_that_keeps_a_loss_from_all_that_is_trained_is_refused(refuse: Refuse) -> None:
    problems = refuse("distance: {}", "distance: {detach: [code]}")

    assert [problem.message for problem in problems] == [
        "update `turn` trains `encoder`, but none of its losses reaches it",
        "loss `distance` reaches no model that update `turn` trains",
    ]
    assert dict(problems[0].notes) == {"cause": "loss `distance` reaches no model, detached at `code`"}
    assert dict(problems[1].notes)["cause"].startswith("it depends on `encoder`, detached at `code`, and the update ")


@pytest.mark.parametrize(
    ("name", "reported", "nearest"),
    [
        ("score", "loss `distance` cannot detach `score`: it does not depend on `score`", None),
        ("cdoe", "loss `distance` cannot detach `cdoe`: it does not depend on `cdoe`", "code"),
        ("image", "loss `distance` cannot detach `image`: `image` is not computed", None),
        ("encoder", "loss `distance` cannot detach `encoder`: `encoder` is not computed", None),
    ],
)
def test_a_cut_where_nothing_flows_is_refused_at_its_place(
    refuse: Refuse, name: str, reported: str, nearest: str | None
) -> None:
    (problem,) = refuse("distance: {}", f"distance: {{detach: [{name}]}}")

    assert problem.message == reported
    assert at(problem) == "15:31"
    assert nearest is None or problem.nearest == nearest
    assert problem.choices is not None
    assert problem.choices.available == ("code",)


def test_a_need_that_a_component_does_not_have_cannot_be_renamed(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {with: {imag: code}}")

    assert problem.message == "`with` replaces `imag`, but loss `distance` requests no such name"
    assert at(problem) == "15:29"
    assert (problem.code, problem.subject, problem.nearest) == ("unknown-name", "imag", "image")
    assert problem.choices is not None
    assert problem.choices.available == ("code", "image")


def test_a_renamed_need_is_filled_by_the_other_value(prove: Prove, registry: Registry) -> None:
    values = "values: {mine: {type: code, with: {encoder: critic}}}\nsteps:"
    text = RECIPE.replace("steps:", values).replace("distance: {}", "distance: {with: {image: mine}}")

    plan = prove(text, using=registry).steps[0]

    assert plan.updates["turn"].losses["distance"].needs == {"code": "code", "image": "mine"}
    assert plan.values["mine"].models == {"critic"}


def test_a_value_that_cannot_be_read_is_not_reported_as_missing_too(refuse: Refuse) -> None:
    problems = refuse(
        "steps:\n  step:\n    dataset: data\n    updates:\n      turn:\n        trains: [encoder]\n        losses:\n"
        "          distance: {}",
        "values: {mine: {type: cdoe}}\nsteps:\n  step:\n    dataset: data\n    updates:\n      turn:\n"
        "        trains: [encoder]\n        losses:\n          distance: {with: {image: mine}}",
    )

    assert [problem.message for problem in problems] == ["unknown value `cdoe`"]


def test_a_value_without_its_required_options_is_reported_with_how_to_set_them(refuse: Refuse) -> None:
    (problem,) = refuse("distance: {}", "distance: {}\n          scaled_size: {}")

    assert problem.message == (
        "loss `scaled_size` of update `turn` in step `step` requests `scaled`, "
        "whose required options the recipe does not set"
    )
    assert dict(problem.notes)["hint"] == (
        "set them under `values`: `scaled: {...}`; `--describe value:scaled` lists them"
    )


def test_a_value_with_options_that_the_recipe_states_is_there(prove: Prove, registry: Registry) -> None:
    text = RECIPE.replace("steps:", "values: {scaled: {scale: 2}}\nsteps:").replace("distance: {}", "scaled_size: {}")

    checked = prove(text, using=registry)

    assert checked.steps[0].providers["scaled"].instance.scale == 2.0


def test_a_metric_that_needs_what_its_dataset_lacks_is_reported(refuse: Refuse) -> None:
    evaluate = "dataset: data\n    evaluate: {held: {dataset: data, metrics: {accuracy: {}}}}"

    (problem,) = refuse("dataset: data", evaluate)

    assert problem.message == (
        "metric `accuracy` in evaluation `held` of step `step` requests `label`, but nothing provides it"
    )
    assert at(problem) == "11:48"


def test_a_sampler_that_the_recipe_lacks_is_reported_with_how_to_add_it(prove: Prove) -> None:
    text = TINY.replace(
        "dataset: shapes", "dataset: shapes\n    evaluate: {e: {dataset: shapes, metrics: {shapes_judge: {}}}}"
    )
    needed = "models:\n  text_encoder: text_transformer\n  flow_processor: flow_transformer\n"

    with pytest.raises(RecipeError) as caught:
        prove(text.replace("models:\n", needed))

    (problem,) = caught.value.problems
    assert problem.message == "`generated_image` requests `sampler`, but the recipe does not provide it"
    assert (
        dict(problem.notes)["hint"]
        == "add `sampler: {type: ...}` to the recipe; `--list-plugins sampler` lists the types"
    )


@pytest.mark.parametrize(
    ("options", "column", "reported"),
    [
        ("{what: cdoe}", 29, "observer `painter` requests `cdoe`, but nothing provides it"),
        ("{where: dta}", 30, "`dta` is not a dataset of the recipe"),
        ("{steps: [stpe]}", 31, "observer `painter` draws in step `stpe`, but the recipe has no such step"),
    ],
)
def test_what_an_observer_wants_to_draw_is_checked_too(
    refuse: Refuse, options: str, column: int, reported: str
) -> None:
    (problem,) = refuse("steps:", f"observers: {{painter: {options}}}\nsteps:")

    assert problem.message == reported
    assert at(problem) == f"{line_of(RECIPE, 'steps:')}:{column}"
    assert problem.nearest is not None


def test_an_optional_value_of_an_observer_may_be_missing_in_a_recipe(prove: Prove, registry: Registry) -> None:
    recipe = RECIPE.replace("steps:", "observers: {painter: {if_possible: [teacher_code, nothing]}}\nsteps:")

    checked = prove(recipe, using=registry)

    assert "painter" in checked.observers


@pytest.mark.parametrize("error", [ValueError("bad options"), KeyError("k"), FileNotFoundError(2, "No such file")])
def test_whatever_a_component_raises_in_a_check_is_reported(prove: Prove, error: Exception) -> None:
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
    assert problem.message.startswith(f"`fields` of dataset `data` failed: {type(error).__name__}: ")
    assert at(problem) == "7:9"
