"""The parser of all commands: argparse, which says what is wrong as everything else here does."""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from typing import NoReturn

from fluxflow_registry.errors import Problem, RecipeError, choices


class Parser(ArgumentParser):
    """A command line; what is wrong with it is raised as RecipeError, and no flag may be cut short."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        formatter = RawDescriptionHelpFormatter
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=formatter, allow_abbrev=False
        )

    def add_training_arguments(self, output: str | None = "runs") -> None:
        """Declare what every command that trains takes.

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
        """The arguments; every flag that there is not is told, each with the nearest that there is."""
        flags = given[: given.index("--")] if "--" in given else given
        if not {"-h", "--help", "--version"} & set(flags):
            unknown = [each for each in flags if each.startswith("--") and each.partition("=")[0] not in self.flags]
            self._refuse([self._unknown(each) for each in unknown])
        arguments, extra = self.parse_known_args(given, known)
        left = [each for each in extra if each != "--"]
        # What stands behind `--` is no flag, whatever it begins with.
        self._refuse([self._unknown(e) if e.startswith("-") and e in flags else _too_many(e) for e in left])
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise what argparse says of an argument in our own words."""
        raise RecipeError(list(self._problems(message)))

    def _problems(self, message: str) -> Iterator[Problem]:
        required = re.fullmatch(r"the following arguments are required: (.+)", message)
        if required:
            for name in required[1].split(", "):
                action = self._action(name)
                yield Problem(f"`{_shown(action)}` is needed: {action.help}" if action else message, None, self._help())
            return
        of = re.fullmatch(r"argument (\S+): (.+)", message, re.DOTALL)
        action = self._action(of[1]) if of else None
        if of is None or action is None:
            yield Problem(message, None, self._help())
            return
        yield Problem(_said(of[2], action), max(action.option_strings, key=len, default=_shown(action)))

    def _action(self, name: str) -> Action | None:
        """The argument that argparse calls so: `--config`, `--a/--b`, `RUN`."""
        names = set(name.split("/"))
        return next((each for each in self._actions if names & {*each.option_strings, each.metavar, each.dest}), None)

    @property
    def flags(self) -> set[str]:
        """Every flag that there is, in each of its spellings."""
        return {flag for action in self._actions for flag in action.option_strings}

    def _unknown(self, flag: str) -> Problem:
        name = flag.partition("=")[0]
        notes = choices(name, (each for each in self.flags if each.startswith("--")), "flags")
        # With a near name the whole list is no help.
        near = notes[:1] if notes[0][0] == "nearest" else notes
        return Problem(f"{self.prog} has no flag `{name}`", None, (*near, *self._help()))

    def _help(self) -> tuple[tuple[str, str], ...]:
        return (("help", f"{self.prog} --help"),)

    def _refuse(self, problems: Sequence[Problem]) -> None:
        if problems:
            raise RecipeError(problems)


def _too_many(argument: str) -> Problem:
    return Problem(f"`{argument}` is one argument too many", None, (("quotes", "a text with blanks is put in quotes"),))


def _shown(action: Action) -> str:
    """An argument as it is given: `--config FILE`, `RUN`."""
    return " ".join(filter(None, [*action.option_strings[:1], str(action.metavar or "")]))


def _said(told: str, action: Action) -> str:
    """What argparse says of one argument, in our words; what is not known here stands as it is."""
    if told == "expected one argument":
        flag = max(action.option_strings, key=len)
        return f"a value is needed, as in `{_shown(action)}`; one that begins with - stands behind a =, `{flag}=-...`"
    for pattern, words in _WORDS:
        found = re.fullmatch(pattern, told, re.DOTALL)
        if found:
            return words.format(found[1])
    return told


_WORDS = (
    (r"not allowed with argument (\S+)", "cannot be given together with `{}`"),
    (r"invalid int value: '(.*)'", "`{}` is no whole number"),
    (r"invalid float value: '(.*)'", "`{}` is no number"),
    (r"ignored explicit argument '(.*)'", "takes no value, and `{}` is given"),
)
