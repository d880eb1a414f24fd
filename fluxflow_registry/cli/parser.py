"""The parser of all commands: argparse, which reports what is wrong as problems."""

from __future__ import annotations

from argparse import Action, ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from fluxflow_registry.errors import Choices, Flag, Problem, RecipeError


class Parser(ArgumentParser):
    """A command line: what is wrong with it is raised as RecipeError, and flags cannot be abbreviated."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        formatter = RawDescriptionHelpFormatter
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=formatter,
            allow_abbrev=False,
            exit_on_error=False,
        )

    def add_training_arguments(self, output: str | None = "runs") -> None:
        """Declare the arguments of every command that trains.

        `output` is the default of `--output`; None leaves it to the command.
        """
        default = f" ({output})" if output is not None else ""
        self.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", help="change a value, as in steps.flow.epochs=2"
        )
        self.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plugin from a file")
        self.add_argument("--output", default=output, metavar="DIR", help=f"folder of the runs' folders{default}")
        self.add_argument("--fresh", action="store_true", help="start a new run even if an unfinished one exists")
        self.add_argument(
            "--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1, mps ... (the best available)"
        )
        self.add_argument("--json", action="store_true", help="print results as JSON on stdout")

    def read(self, given: Sequence[str], known: Namespace) -> Namespace:
        """The arguments; every unknown flag is reported with the nearest known one. Raises RecipeError."""
        flags = given[: given.index("--")] if "--" in given else given
        if not {"-h", "--help", "--version"} & set(flags):
            unknown = [each for each in flags if each.startswith("--") and each.partition("=")[0] not in self.flags]
            self._refuse([self._unknown(each) for each in unknown])
        try:
            arguments, extra = self.parse_known_args(given, known)
        except ArgumentError as error:
            raise RecipeError(self._invalid(error)) from None
        left = [each for each in extra if each != "--"]
        # What follows `--` is not a flag, whatever it begins with.
        self._refuse([self._unknown(e) if e.startswith("-") and e in flags else _too_many(e) for e in left])
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise what argparse reports of the command line as a whole: required arguments are missing."""
        hints = [("hint", f"`{_usage(action)}`: {action.help}") for action in self._actions if action.required]
        raise RecipeError(Problem(message, None, [*hints, *self._help()], code="missing-argument"))

    def _invalid(self, error: ArgumentError) -> Problem:
        """What argparse reports of one argument, with how to write it."""
        names = set((error.argument_name or "").split("/"))
        action = next((each for each in self._actions if names & {*each.option_strings, each.metavar, each.dest}), None)
        if action is None:
            return Problem(error.message, None, self._help(), code="invalid-argument")
        flag = max(action.option_strings, key=len, default=str(action.metavar))
        hint = f"write `{_usage(action)}`"
        if action.option_strings and action.nargs is None:
            hint += f"; a value that begins with - needs a =, as in `{flag}=-1`"
        return Problem(error.message, Flag(flag), [("hint", hint)], code="invalid-argument", subject=flag)

    @property
    def flags(self) -> set[str]:
        """Every flag, in each of its spellings."""
        return {flag for action in self._actions for flag in action.option_strings}

    def _unknown(self, flag: str) -> Problem:
        name = flag.partition("=")[0]
        choices = Choices.of(name, (each for each in self.flags if each.startswith("--")))
        message = f"{self.prog} has no flag `{name}`"
        return Problem(message, None, self._help(), code="unknown-flag", subject=name, choices=choices)

    def _help(self) -> tuple[tuple[str, str], ...]:
        return (("command", f"{self.prog} --help"),)

    def _refuse(self, problems: Sequence[Problem]) -> None:
        if problems:
            raise RecipeError(problems)


def _too_many(argument: str) -> Problem:
    message = f"`{argument}` is one argument too many"
    return Problem(message, None, (("hint", "quote an argument that contains spaces"),), code="unknown-argument")


def _usage(action: Action) -> str:
    """An argument as it is written: `--config FILE`, `RUN`."""
    return " ".join(filter(None, [*action.option_strings[:1], str(action.metavar or "")]))
