"""What is wrong, where, who asked, what there is, and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from attrs import frozen

#: How many names an `available` line shows before it is cut.
LISTED = 24

#: A message longer than this is cut: it quotes something that nobody reads to the end.
LONGEST = 2000


@frozen
class Problem:
    """One thing that is wrong: a message, the place it is wrong at, and labelled notes under it."""

    message: str
    where: str | None = None
    notes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        head = printable(f"{self.where}  {self.message}" if self.where else self.message)
        width = max((len(label) for label, _ in self.notes), default=0)
        gap = "\n" + " " * (width + 6)
        rows = [f"    {label:<{width}}  {gap.join(map(printable, text.splitlines()))}" for label, text in self.notes]
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


class SampleError(DataError):
    """Samples that cannot be read, by index: training goes on with others in their places."""

    def __init__(self, samples: Mapping[int, Problem]) -> None:
        super().__init__(list(samples.values()))
        self.samples = dict(samples)


class RunError(FluxflowError):
    """A run folder or a checkpoint cannot be used."""


class TrainingError(FluxflowError):
    """Training itself failed; the last checkpoint stands."""

    exit_code = 1


def printable(text: str) -> str:
    """The text on one line, control characters escaped: what a recipe quotes must not steer a terminal."""
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` was probably meant to be, or None.

    The same but for case and hyphens comes first, then one slip of the finger, then what looks alike.
    """
    known = {_folded(each): each for each in sorted(names, reverse=True)}
    meant = _folded(name)
    if meant in known:
        return known[meant]
    slips = [each for each in known if _one_slip(meant, each)]
    likely = [each for each in slips if sorted(each) == sorted(meant)] or slips  # two letters swapped
    matches = get_close_matches(meant, likely, n=1, cutoff=0.0) or get_close_matches(
        meant, list(known), n=1, cutoff=0.6
    )
    return known[matches[0]] if matches else None


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


def _one_slip(a: str, b: str) -> bool:
    """Whether one letter too many, too few, wrong, or two letters swapped make `a` of `b`."""
    if len(a) == len(b):
        wrong = [i for i in range(len(a)) if a[i] != b[i]]
        swapped = (
            len(wrong) == 2 and wrong[1] == wrong[0] + 1 and a[wrong[0]] == b[wrong[1]] and a[wrong[1]] == b[wrong[0]]
        )
        return len(a) > 1 and (len(wrong) == 1 or swapped)
    long, short = (a, b) if len(a) > len(b) else (b, a)
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def choices(name: str, names: Iterable[str], label: str = "available") -> tuple[tuple[str, str], ...]:
    """The notes that help with an unknown name: the nearest one, then what there is."""
    known = sorted(names)
    close = nearest(name, known)
    shown = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
    notes = (("nearest", close),) if close is not None else ()
    return (*notes, (label, shown or "nothing"))


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 epoch`, `2 epochs`, `2 batches`."""
    ending = "" if number == 1 else "es" if noun.endswith("tch") else "s"
    return f"{number:,} {noun}{ending}"


def one_line(error: BaseException) -> str:
    """An exception as one line: its class and the first line of its message, without addresses of objects."""
    text = _ADDRESS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
