"""What a user should know though nothing is wrong is printed as a note by commands that check, train and generate."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from fluxflow_registry import Notice, RecipeError
from fluxflow_registry.check.notes import value_notes
from fluxflow_registry.cli.output import Result, finish
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin

from ..recipes import DEFAULT, TINY
from ..synthetic import plugin
from .conftest import Answer

NEVER_DROPPED = [
    ["values={prompt: {dropout: 0.0}}"],
    ["steps.flow.values={prompt: {dropout: 0.0}}"],
    ["values={text_embedding: {with: {prompt: caption}}}"],
]
GUIDED = "values.generated_image={guidance: 4}"


@pytest.mark.parametrize("settings", NEVER_DROPPED, ids=str)
def test_guidance_without_dropped_captions_is_noted(prove: Callable[..., RecipePlan], settings: list[str]) -> None:
    plan = prove(DEFAULT.read_text(), *settings, GUIDED)

    (note,) = value_notes(plan)

    assert (
        "value `generated_image`: `guidance: 4` compares a caption with the empty one, which was never trained on"
        in note
    )
    assert note.startswith("--set ")


def test_guidance_without_dropped_captions_is_noted_where_no_observer_draws(prove: Callable[..., RecipePlan]) -> None:
    text = re.sub(r"(?ms)^observers:.*?\n(?=\w)", "", DEFAULT.read_text())

    (note,) = value_notes(prove(text, *NEVER_DROPPED[0]))

    assert "`guidance: 3` compares a caption with the empty one, which was never trained on" in note
    assert value_notes(prove(text)) == []


def test_captions_that_are_all_dropped_are_noted(prove: Callable[..., RecipePlan]) -> None:
    (note,) = value_notes(prove(DEFAULT.read_text(), "values.prompt.dropout=1.0"))

    assert "value `prompt`: `dropout: 1` replaces every caption by the empty one" in note


@pytest.mark.parametrize(
    "settings",
    [
        [],
        [GUIDED],
        [*NEVER_DROPPED[0], "values.generated_image={guidance: 1}"],
        [*NEVER_DROPPED[0], "values.generated_image={guidance: 4, negative_prompt: blurry}"],
    ],
    ids=str,
)
def test_nothing_is_noted_where_guidance_is_trained_or_needs_no_empty_caption(
    prove: Callable[..., RecipePlan], settings: list[str]
) -> None:
    assert value_notes(prove(DEFAULT.read_text(), *settings)) == []


def test_a_negative_prompt_without_guidance_is_noted(prove: Callable[..., RecipePlan]) -> None:
    (note,) = value_notes(prove(DEFAULT.read_text(), "values.generated_image={guidance: 1, negative_prompt: blurry}"))

    assert "`negative_prompt` has no effect without guidance: set a `guidance` other than 1" in note


def test_notes_that_fail_are_a_problem_of_the_value(prove: Callable[..., RecipePlan]) -> None:
    @frozen
    class Noting:
        def __call__(self, image: Any) -> Any:
            return image

        def notes(self, steps: Any) -> list[str]:
            raise KeyError("prompt")

    using = load()
    add_plugin(using, Plugin("noting", "test", "1", "here"), plugin(values={"noting": Noting}))
    plan = prove(TINY, "steps.vae.updates.vae.losses.l1.with={image: noting}", using=using)

    with pytest.raises(RecipeError) as caught:
        value_notes(plan)

    (problem,) = caught.value.problems
    assert problem.message == "`notes` of value `noting` failed: KeyError: 'prompt'"
    assert (problem.code, problem.subject) == ("component-failed", "noting")


def test_validating_prints_notes(call: Callable[..., Answer]) -> None:
    reported = call("--validate", DEFAULT, "--set", NEVER_DROPPED[0][0], "--set", GUIDED)

    assert reported.code == 0
    assert reported.err.startswith("note: --set values.generated_image={guidance: 4}  value `generated_image`: ")
    assert reported.err.count("\n") == 1


def test_a_notice_is_printed_once_and_as_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> Result:
        for _ in range(3):
            warnings.warn(Notice("a caption is long"), stacklevel=1)
            warnings.warn("of another kind", UserWarning, stacklevel=1)
        return Result(dict, lambda: "done")

    with pytest.warns(UserWarning, match="of another kind"), pytest.raises(SystemExit):
        finish(command, as_json=False)

    assert capsys.readouterr().err == "note: a caption is long\n"
