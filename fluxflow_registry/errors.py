"""What is wrong, where, who asked, what there is, and the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from attrs import frozen

#: How many names an `available` line shows before it is cut.
LISTED = 24


@frozen
class Problem:
    """One thing that is wrong: a message, the place it is wrong at, and labelled notes under it."""

    message: str
    where: str | None = None
    notes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        head = f"{self.where}  {self.message}" if self.where else self.message
        width = max((len(label) for label, _ in self.notes), default=0)
        rows = [f"    {label:<{width}}  {text}" for label, text in self.notes]
        return "\n".join([head, *rows])


class FluxflowError(Exception):
    """A mistake that a user can mend; carries every problem found, never a traceback."""

    #: The exit code of the command that meets this error.
    exit_code = 2

    def __init__(self, problems: Problem | str | Sequence[Problem], where: str | None = None) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, where)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n\n".join(str(problem) for problem in self.problems))


class PluginError(FluxflowError):
    """A plugin broke a law of the registry."""


class RecipeError(FluxflowError):
    """The recipe or the command line is wrong."""


class DataError(FluxflowError):
    """A dataset cannot be read as the recipe describes it."""


class RunError(FluxflowError):
    """A run folder or a checkpoint cannot be used."""


class TrainingError(FluxflowError):
    """Training itself failed; the last checkpoint stands."""

    exit_code = 1


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` was probably meant to be, or None."""
    matches = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return matches[0] if matches else None


def choices(name: str, names: Iterable[str], label: str = "available") -> tuple[tuple[str, str], ...]:
    """The notes that help with an unknown name: the nearest one, then what there is."""
    known = sorted(names)
    close = nearest(name, known)
    shown = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
    notes = (("nearest", close),) if close else ()
    return (*notes, (label, shown or "nothing"))


def one_line(error: BaseException) -> str:
    """An exception as one line: its class and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
