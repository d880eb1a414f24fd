"""A problem as data, and the exceptions that carry problems."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from fluxflow_registry.errors.names import Choices
from fluxflow_registry.errors.place import Flag, Location, Place, Variable, to_location
from fluxflow_registry.errors.text import printable, table

#: A label (see LABELS) and the text under it.
Note = tuple[str, str]

#: Every label that a note of ours has; each may appear several times.
LABELS = frozenset(
    {
        "hint",  # how to fix it
        "instead",  # what to write
        "command",  # what to enter in a shell
        "cause",  # the underlying error, or the reason
        "defined in",  # file and line of a definition
        "raised at",
        "requested by",
        "received",  # inputs, shapes, what is there
        "see also",  # another location involved
        "status",  # the state of things
    }
)

#: The code of a problem that names none.
UNCODED = "problem"


def _to_notes(notes: Iterable[tuple[str, object]]) -> tuple[Note, ...]:
    return tuple((label, str(text)) for label, text in notes)


@frozen
class Problem:
    """One thing that is wrong.

    `message` is a sentence with its subject, `where` its location; a bare string is the path of a file. `code` names
    the kind of problem and never changes; `subject` is the name that the problem is about, such as an unknown key.
    Programs decide by `code` and `subject`, never by the message.
    """

    message: str
    where: Location | None = field(default=None, converter=to_location)
    notes: tuple[Note, ...] = field(default=(), converter=_to_notes)
    code: str = field(default=UNCODED, kw_only=True)
    subject: str | None = field(default=None, kw_only=True)
    choices: Choices | None = field(default=None, kw_only=True)

    @property
    def nearest(self) -> str | None:
        """The valid name that was probably meant."""
        return self.choices.nearest if self.choices else None

    @property
    def identity(self) -> Hashable:
        """What makes two reports the same problem: location, code and subject, whatever their words.

        A problem without a code is the same as its exact copies only.
        """
        return self if self.code == UNCODED else (self.where, self.code, self.subject)

    def __str__(self) -> str:
        head = printable(self.message if self.where is None else f"{self.where}  {self.message}")
        rows = [*(self.choices.rows() if self.choices else ()), *self.notes]
        return "\n".join([head, *table(rows)])

    def as_json(self) -> dict[str, Any]:
        """The problem as JSON: every part under a key of its own; parts that are unknown are null."""
        where = self.where
        place = where if isinstance(where, Place) else Place("")
        return {
            "code": self.code,
            "message": self.message,
            "path": place.file or None,
            "line": place.line,
            "column": place.column,
            "key": place.key,
            "flag": where.flag if isinstance(where, Flag) else None,
            "variable": where.variable if isinstance(where, Variable) else None,
            "subject": self.subject,
            "nearest": self.nearest,
            "available": list(self.choices.available) if self.choices else None,
            "notes": [{"label": label, "text": text} for label, text in self.notes],
        }


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, in the order of the file: what `defaults` say is read again for every step."""
    first: dict[Hashable, Problem] = {}
    for problem in problems:
        first.setdefault(problem.identity, problem)
    return sorted(first.values(), key=lambda problem: _position(problem.where))


def _position(where: Location | None) -> tuple[int, int]:
    """Line and column; what has none comes first."""
    return (where.line or 0, where.column or 0) if isinstance(where, Place) else (0, 0)


class FluxflowError(Exception):
    """A mistake that a user can fix; carries every problem found, never a traceback."""

    #: The exit code of the command that meets this error.
    exit_code = 2

    def __init__(
        self,
        problems: Problem | str | Sequence[Problem],
        where: Location | str | None = None,
        *,
        code: str = UNCODED,
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, where, code=code)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n\n".join(str(problem) for problem in self.problems))


class PluginError(FluxflowError):
    """A plugin breaks a law of the registry."""


class RecipeError(FluxflowError):
    """The recipe or the command line is wrong."""


class DataError(FluxflowError):
    """A dataset cannot be read as the recipe describes it."""


class SampleError(DataError):
    """Samples that cannot be read, by index: training continues with others in their places."""

    def __init__(self, samples: Mapping[int, Problem]) -> None:
        super().__init__(list(samples.values()))
        self.samples = dict(samples)


class RunError(FluxflowError):
    """A run folder or a checkpoint cannot be used."""


class TrainingError(FluxflowError):
    """Training itself failed; the last checkpoint is intact."""

    exit_code = 1
