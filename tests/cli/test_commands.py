"""The table of commands: a flag, a function that is imported only to be run, and its help."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from fluxflow_registry.cli.main import COMMANDS, MERMAID, TRAIN, Command, parser
from fluxflow_registry.errors import RecipeError

#: Arguments that not every command reads.
ARGUMENTS = {
    "RECIPE": ["r.yaml"],
    "--set": ["--set", "seed=1"],
    "--output": ["--output", "elsewhere"],
    "--fresh": ["--fresh"],
    "--device": ["--device", "cpu"],
    "--samples": ["--samples", "5"],
    "--mermaid": ["--mermaid"],
}

#: Those that a command reads, where that is not exactly what training reads.
OTHERS = {
    "--explain": {*ARGUMENTS} - {"--samples"},
    "--mermaid": {*ARGUMENTS} - {"--samples"},
    "--inspect-data": {*ARGUMENTS} - {"--mermaid"},
    "--replay": {"--device"},
    **dict.fromkeys(("--schema", "--list-plugins", "--describe", "--document", "--status"), frozenset()),
}


@pytest.mark.parametrize("command", [*COMMANDS, MERMAID, TRAIN], ids=lambda command: command.flag or "train")
def test_the_function_of_a_command_takes_an_invocation_and_returns_a_result(command: Command) -> None:
    module = import_module(f"fluxflow_registry.cli.{command.module}")

    signature = inspect.signature(getattr(module, f"{command.name}_command"))

    assert [parameter.annotation for parameter in signature.parameters.values()] == ["Invocation"]
    assert signature.return_annotation in ("Result", "Result | int")


@pytest.mark.parametrize("command", [*COMMANDS, MERMAID], ids=lambda command: command.flag)
def test_a_command_is_requested_by_its_flag_alone(command: Command) -> None:
    words = [command.flag, *(["x"] if command.metavar and not command.value_is_optional else [])]

    arguments = parser().parse_args(words)

    assert [each for each in (*COMMANDS, MERMAID) if each.requested(arguments)] == [command]
    assert not any(each.requested(parser().parse_args(["r.yaml"])) for each in (*COMMANDS, MERMAID))


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("command", [*COMMANDS, MERMAID, TRAIN], ids=lambda command: command.flag or "train")
def test_an_argument_that_has_no_effect_on_a_command_is_rejected(command: Command, argument: str) -> None:
    requested = [command.flag, "x"] if command.metavar else [command.flag] if command.flag else []
    arguments = parser().parse_args([*ARGUMENTS[argument], *requested])
    rejected = []

    try:
        command.reject_unread(arguments)
    except RecipeError as error:
        rejected = [(problem.code, problem.subject) for problem in error.problems]

    read = OTHERS.get(command.flag, {*ARGUMENTS} - {"--samples", "--mermaid"})
    assert rejected == ([] if argument in read else [("conflict", argument)])
