"""Laws of problems: each has a code and known labels, and nothing decides by the words of a message."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.check.checker import check
from fluxflow_registry.errors import LABELS, FluxflowError, Problem
from fluxflow_registry.registry.discovery import load

from ..docs.messages import text_of
from .test_tree import ROOT, SOURCES

#: The exceptions that build a problem from a message.
ERRORS = {
    "DataError", "DamagedError", "FluxflowError", "PluginError", "PretrainedError", "RecipeError", "RunError",
    "TrainingError", "WeightsError",
}  # fmt: skip

#: Calls that look into a text.
LOOKING = {
    "endswith", "find", "findall", "finditer", "fullmatch", "index", "match", "partition", "removeprefix",
    "removesuffix", "replace", "rpartition", "rsplit", "search", "split", "startswith", "sub",
}  # fmt: skip


def calls(path: Path) -> Iterator[ast.Call]:
    """The calls in a file."""
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def reads_words(node: ast.AST) -> bool:
    """Whether an expression reads the message or the notes of something."""
    return any(isinstance(each, ast.Attribute) and each.attr in ("message", "notes") for each in ast.walk(node))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_problem_has_a_code(path: Path) -> None:
    for call in calls(path):
        name = ast.unparse(call.func).rpartition(".")[2]
        message = call.args[0] if call.args else None
        from_words = message is not None and (text_of(message) is not None or ast.unparse(message) == "message")
        passed_on = [keyword.arg for keyword in call.keywords] == [None]
        if (name == "Problem" and not passed_on) or (name in ERRORS and from_words):
            assert "code" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_note_has_a_label_of_the_list(path: Path) -> None:
    for call in calls(path):
        if ast.unparse(call.func).rpartition(".")[2] not in ("Problem", *ERRORS):
            continue
        notes = [*call.args[2:3], *(keyword.value for keyword in call.keywords if keyword.arg == "notes")]
        pairs = [
            each for note in notes for each in ast.walk(note) if isinstance(each, ast.Tuple) and len(each.elts) == 2
        ]
        labels = {text for pair in pairs if (text := text_of(pair.elts[0])) is not None}
        assert labels <= LABELS, f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_decides_by_the_words_of_a_message(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            assert not reads_words(node), f"{path}:{node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKING:
            looked_at = [node.func.value, *node.args]
            assert not any(map(reads_words, looked_at)), f"{path}:{node.lineno}"


#: Mistakes of many kinds, several of them twice in the same words.
MISTAKES = [
    "steps.vae.updates.vae.losses.klm={}",
    "steps.vae.updates.vae.losses.l1.wieght=2",
    "steps.vae.updates.vae.trains=[compresor]",
    "steps.vae.updates.vae.optimizer.type=AdmW",
    "steps.vae.epochs=many",
    "steps.vae_gan.after=nobody",
    "models.expander.width=-1",
    "datasets.shapes.size=x",
    "defaults.batch_size=0",
    "sampler.type=eler",
    "observers.console.every_second=1",
]


def found(settings: list[str]) -> list[tuple[Any, ...]]:
    """What is wrong with the default recipe under settings, without its words."""
    try:
        check(str(ROOT / "recipes" / "vae_gan_flow.yaml"), load(), settings)
    except FluxflowError as error:
        return [(each.code, str(each.where), each.subject, each.nearest) for each in error.problems]
    return []


@pytest.mark.parametrize("settings", [*([each] for each in MISTAKES), MISTAKES], ids=lambda value: str(len(value)))
def test_the_words_of_messages_change_nothing_else(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found(settings)
    build = Problem.__init__

    def in_other_words(self: Problem, message: str, *args: Any, **kwargs: Any) -> None:
        build(self, f"{hash(message):x}", *args, **kwargs)

    monkeypatch.setattr(Problem, "__init__", in_other_words)

    assert found(settings) == expected
    assert expected, "the recipe is valid: this proves nothing"
