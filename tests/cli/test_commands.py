"""The table of commands: a flag, a function that is imported only to be run, and its help."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from fluxflow_registry.cli.main import COMMANDS, MERMAID, TRAIN, Command, parser


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
