"""The parser of every command: argparse, whose errors are problems like all others."""

from __future__ import annotations

from argparse import Action, ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from fluxflow_registry.errors import Choices, Flag, Location, Problem, RecipeError

#: What the value of a flag must be, for the types of arguments that commands use.
_TYPES = {int: "an integer", float: "a number"}


class Parser(ArgumentParser):
    """A command line; raises RecipeError with what is wrong with it, and does not accept abbreviated flags."""

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str | None = None,
        instead: Callable[[str], str | None] = lambda flag: None,
    ) -> None:
        """`instead` returns what replaces a flag that other programs have, as a sentence in the imperative."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self._instead = instead

    def add_training_arguments(
        self,
        output: str | None = "runs",
        output_help: str = "folder that contains the runs (default: %(default)s)",
        set_help: str = "change a value, such as steps.flow.epochs=2",
    ) -> None:
        """Declare what every command that trains takes.

        `output` is the default of `--output`; None leaves it to the command, which describes it in `output_help`.
        """
        self.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=set_help)
        self.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plugin from a file")
        self.add_argument("--output", default=output, metavar="DIR", help=output_help)
        self.add_argument("--fresh", action="store_true", help="start a new run even if an unfinished one exists")
        self.add_argument(
            "--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1, mps ... (default: the best available)"
        )
        self.add_argument("--json", action="store_true", help="print results as JSON on stdout")

    def read(self, words: Sequence[str], known: Namespace) -> Namespace:
        """The arguments, added to those `known`; reports every unknown flag with the nearest one."""
        flags = words[: words.index("--")] if "--" in words else words
        if not {"-h", "--help", "--version"} & set(flags):
            _raise([*self._wrong_flags(flags)])
        try:
            arguments, rest = self.parse_known_args(words, known)
        except ArgumentError as error:
            raise RecipeError([*self._relayed(error, known)]) from None
        extra = [word for word in rest if word != "--"]
        # What follows `--` is not a flag, whatever it begins with.
        _raise([self._unknown(word) if word.startswith("-") and word in flags else _unexpected(word) for word in extra])
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise ArgumentError(None, message)

    def _wrong_flags(self, words: Sequence[str]) -> Iterator[Problem]:
        """What is wrong with flags whatever their values are: argparse reports it in text alone."""
        known = [(word, self._option_string_actions.get(word.partition("=")[0])) for word in words if word[:2] == "--"]
        yield from (self._unknown(word) for word, action in known if action is None)
        for word, action in known:
            _, sign, value = word.partition("=")
            if action is not None and action.nargs == 0 and sign:
                message = f"`{_flag(action)}` does not take a value, got `{value}`"
                yield Problem(message, _where(action), code="unexpected-argument", subject=_flag(action))
        used = list(dict.fromkeys(action for _, action in known if action is not None))
        for group in self._mutually_exclusive_groups:
            exclusive = [action for action in used if action in group._group_actions]
            for other in exclusive[1:]:
                message = f"`{_flag(other)}` cannot be combined with `{_flag(exclusive[0])}`"
                yield Problem(message, _where(other), code="conflict", subject=_flag(other))

    def _relayed(self, error: ArgumentError, arguments: Namespace) -> Iterator[Problem]:
        """What argparse reports itself: first of all missing arguments, which it looks for when all else is right."""
        missing = [action for action in self._actions if action.required and vars(arguments).get(action.dest) is None]
        for action in missing if error.argument_name is None else ():
            message = f"`{_usage(action)}` is missing: {action.help}"
            yield Problem(message, None, (self._help(),), code="missing-argument", subject=_usage(action))
        if error.argument_name is not None or not missing:
            name = error.argument_name or self.prog
            notes = (("cause", error.message), self._help())
            yield Problem(f"`{name}` cannot be read", None, notes, code="invalid-value", subject=name)

    def _match_argument(self, action: Action, arg_strings_pattern: str) -> int:
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except ArgumentError:
            flag = _flag(action)
            instead = ("instead", f"`{flag}=-...` for a value that begins with `-`")
            message = f"`{flag}` needs a value: `{_usage(action)}`"
            raise RecipeError(message, _where(action), [instead], code="missing-value", subject=flag) from None

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        if arg_strings == ["--"] and action.nargs is None:  # `--prompt=--`, of which argparse would take nothing
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except ArgumentError:
            kind = _TYPES.get(action.type, "valid")  # type: ignore[call-overload]
            message = f"`{_flag(action)}` must be {kind}, got `{arg_string}`"
            raise RecipeError(message, _where(action), code="wrong-type", subject=_flag(action)) from None

    def _unknown(self, word: str) -> Problem:
        name = word.partition("=")[0]
        flags = {flag for flag in self._option_string_actions if flag.startswith("--")}
        message, choices = f"{self.prog} has no flag `{name}`", Choices.of(name, flags)
        instead = self._instead(name) if choices.nearest is None else None
        notes = (self._help(),) if instead is None else (("instead", instead), self._help())
        shown = choices if instead is None else None
        return Problem(message, Flag(name), notes, code="unknown-flag", subject=name, choices=shown)

    def _help(self) -> tuple[str, str]:
        return ("command", f"{self.prog} --help")


def _unexpected(word: str) -> Problem:
    message = f"unexpected argument `{word}`; quote text that contains spaces"
    return Problem(message, None, code="unexpected-argument", subject=word)


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise RecipeError(problems)


def _flag(action: Action) -> str:
    """The longest spelling of a flag; the name of an argument without one."""
    return max(action.option_strings, key=len, default=str(action.metavar or action.dest))


def _where(action: Action) -> Location | None:
    return Flag(_flag(action)) if action.option_strings else None


def _usage(action: Action) -> str:
    """An argument as it is written on a command line: `--config FILE`, `RUN`."""
    return " ".join(filter(None, [*action.option_strings[:1], str(action.metavar or "")]))
