"""Problems as data: where something is wrong, what is available, the nearest name, and their text and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, TypedDict, Unpack, overload

from attrs import evolve, field, frozen
from attrs.converters import optional

from fluxflow_registry.redaction import redact

#: A message longer than this is shortened, because nobody reads all of it.
LONGEST = 2000

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_DIGIT = re.compile(r"\d")

_SEPARATOR = re.compile(r"[_/.]")


def printable(text: str) -> str:
    r"""The text on one line, secrets hidden, control characters escaped: what is quoted must not steer a terminal.

    Bytes of a file's name that are not UTF-8, which Python keeps as surrogates, are escaped as bytes: `\xff`.
    """
    text = redact(text)
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return "".join(c if c.isprintable() else _escaped(c) for c in shown)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def table(rows: Iterable[tuple[str, str]], indent: int = 4) -> list[str]:
    """Labeled rows, aligned; the further lines of a text are indented."""
    labeled = [(printable(label), map(printable, text.splitlines())) for label, text in rows]
    width = max((len(label) for label, _ in labeled), default=0)
    margin, gap = " " * indent, "\n" + " " * (indent + width + 2)
    return [f"{margin}{label:<{width}}  {gap.join(lines)}" for label, lines in labeled]


def listed(names: Iterable[object], most: int) -> str:
    """The first names, with `...` where there are more."""
    shown = list(map(str, names))
    return ", ".join([*shown[:most], *(["..."] if len(shown) > most else [])])


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 epoch`, `2 epochs`, `2 batches`."""
    ending = "" if number == 1 else "es" if noun.endswith("tch") else "s"
    return f"{number:,} {noun}{ending}"


def one_line(error: BaseException) -> str:
    """An exception as one line: its class and the first line of its message, without secrets, nor addresses."""
    text = redact(_ADDRESS.sub("", str(error))).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def to_json(value: Any, exact: bool = False) -> Any:
    """The value as JSON can hold it, at any depth: tuples as lists, paths as strings, finite numbers, no secrets.

    NaN and the infinities become null or, with `exact`, the strings that `float` reads back.
    """
    if isinstance(value, Mapping):
        return {key: to_json(part, exact) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part, exact) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if exact else None
    return redact(str(value) if isinstance(value, PurePath) else value)


def _hidden(text: str) -> str:
    return redact(text)


def _all_hidden(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(redact, texts))


#: How many names an `available` line shows before it is shortened.
LISTED = 24


@frozen
class Choices:
    """What an unknown name could have been: the valid name nearest to it, and every valid name."""

    nearest: str | None = field(converter=optional(_hidden))
    available: tuple[str, ...] = field(converter=_all_hidden)
    #: Shown after the nearest name: the plugin that it comes from, for one.
    detail: str = ""

    @classmethod
    def of(cls, name: str, names: Iterable[str], keys: bool = False) -> Choices:
        """The choices of someone who wrote `name` where one of `names` is valid; `keys`: see `nearest`."""
        valid = tuple(sorted(names))
        return cls(nearest(name, valid, keys), valid)

    def rows(self) -> list[tuple[str, str]]:
        """The choices as labeled rows."""
        near = [("nearest", f"{self.nearest}   {self.detail}".rstrip())] if self.nearest is not None else []
        return [*near, ("available", listed(self.available, LISTED) or "nothing")]


def nearest(name: str, names: Iterable[str], keys: bool = False) -> str | None:
    """The valid name that `name` was probably meant to be, or None.

    A name that differs in case and hyphens alone comes first, then one typing error, then the only name that begins
    like it and is longer or shorter, then similar spelling. A wrong suggestion is worse than none: a name of which a
    word or a number is another one is not near. Of `keys`, all of which are known, one with another letter is a typing
    error also where it is short: `epz` for `eps`. Elsewhere it may be the name of something else: `mae` is not `mse`.
    """
    known = {_folded(each): each for each in sorted(names, reverse=True)}
    meant = _folded(name)
    if meant in known:
        return known[meant]
    near = [each for each in known if not _differs_in_meaning(meant, each, keys)]
    slips = [each for each in near if one_slip(meant, each)]
    likely = [each for each in slips if sorted(each) == sorted(meant)] or slips  # two letters swapped
    prefixed = [each for each in near if _abbreviated(meant, each) and meant.count("_") <= each.count("_")]
    matches = (
        get_close_matches(meant, likely, n=1, cutoff=0.0)
        or (prefixed if len(prefixed) == 1 else [])
        or get_close_matches(meant, near, n=1, cutoff=SIMILAR)
    )
    return known[matches[0]] if matches else None


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_").strip("_")


#: Names of which a smaller share is the same are not similar.
SIMILAR = 0.65

#: In a word of so few letters another letter makes another word: `mae` is not `mse`.
_SHORT = 4


def _differs_in_meaning(name: str, other: str, keys: bool) -> bool:
    """Whether a word or a number of one name is another one in the other: `l2` of `l1`, `resume` of `prove_resume`."""
    words, others = _SEPARATOR.split(name), _SEPARATOR.split(other)
    if len(words) == len(others):
        few = len(words) < 3 and not keys  # of more words, the others show which name is meant
        return any(_another_word(a, b, few) for a, b in zip(words, others, strict=True))
    return others[-len(words) :] == words


def _abbreviated(a: str, b: str) -> bool:
    """Whether one is the beginning of the other: `eps` of `epsilon`, `prove` of `prove_resume`."""
    return min(len(a), len(b)) > 2 and (a.startswith(b) or b.startswith(a))


def _another_word(a: str, b: str, few: bool) -> bool:
    if _DIGIT.sub("0", a) == _DIGIT.sub("0", b):
        return a != b
    if sorted(a) == sorted(b):
        return False
    if few and len(a) == len(b) <= _SHORT:
        return True
    return not (one_slip(a, b) or _abbreviated(a, b) or not (a and b) or get_close_matches(a, [b], cutoff=SIMILAR))


def one_slip(a: str, b: str) -> bool:
    """Whether `a` is `b` with one letter too many, one missing, one wrong, or two neighbors swapped."""
    if len(a) == len(b):
        wrong = [i for i in range(len(a)) if a[i] != b[i]]
        swapped = (
            len(wrong) == 2 and wrong[1] == wrong[0] + 1 and a[wrong[0]] == b[wrong[1]] and a[wrong[1]] == b[wrong[0]]
        )
        return len(a) > 1 and (len(wrong) == 1 or swapped)
    long, short = (a, b) if len(a) > len(b) else (b, a)
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


@frozen
class Place:
    """A file or folder, and a line and column in it where they are known, counted from 1."""

    file: str = field(converter=_hidden)
    line: int | None = None
    column: int | None = None
    #: The path of keys that leads to it in a recipe, such as `steps.vae.updates.vae.losses.kl`.
    key: str | None = field(default=None, eq=False, converter=optional(_hidden))

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@frozen
class Flag:
    """A flag of the command line, with its value where that is to blame."""

    flag: str
    value: str | None = field(default=None, converter=optional(_hidden))

    def __str__(self) -> str:
        return self.flag if self.value is None else f"{self.flag} {self.value}"


@frozen
class Variable:
    """An environment variable."""

    variable: str

    def __str__(self) -> str:
        return self.variable


@frozen
class Default:
    """A default, which no file sets; the description names its owner."""

    description: str = field(converter=_hidden)

    def __str__(self) -> str:
        return self.description


Location = Place | Flag | Variable | Default


@overload
def to_location(where: Location | str) -> Location: ...


@overload
def to_location(where: None) -> None: ...


def to_location(where: Location | str | None) -> Location | None:
    """The location; a bare string is the path of a file or folder."""
    return Place(where) if isinstance(where, str) else where


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

#: Lines with the same mistake that are problems of their own; of more, so many are listed.
FEW_LINES = 8

#: The code of a problem that names none.
UNCODED = "problem"


class Parts(TypedDict, total=False):
    """The parts of a problem that have names."""

    code: str
    subject: str | None
    choices: Choices | Iterable[str] | None


@frozen(init=False)
class Problem:
    """One thing that is wrong.

    `message` is a sentence with its subject, `where` its location; a bare string is the path of a file. `code` names
    the kind of problem and never changes; `subject` is the name that the problem is about, such as an unknown key;
    `choices` are the names that are valid in its place.
    Programs decide by `code` and `subject`, never by the message.
    """

    message: str
    where: Location | None
    notes: tuple[Note, ...]
    code: str
    subject: str | None
    choices: Choices | None

    def __init__(
        self,
        message: str,
        where: Location | str | None = None,
        notes: Iterable[tuple[str, object]] = (),
        **parts: Unpack[Parts],
    ) -> None:
        choices, subject = parts.get("choices"), parts.get("subject")
        if isinstance(where, str) and (shown := redact(where)) != where and (name := PurePath(where).name):
            # Without its folder, a file's name no longer looks like part of a URL.
            for secret, public in ((where, shown), (name, PurePath(shown).name)):
                message = message.replace(secret, public)
                subject = subject and subject.replace(secret, public)
        if choices is not None and not isinstance(choices, Choices):
            choices = Choices.of(subject or "", choices)
        texts = tuple((label, redact(str(text))) for label, text in notes)
        code = parts.get("code", UNCODED)
        self.__attrs_init__(redact(message), to_location(where), texts, code, redact(subject), choices)

    @property
    def nearest(self) -> str | None:
        """The valid name that was probably meant."""
        return self.choices.nearest if self.choices else None

    @property
    def identity(self) -> Hashable:
        """What makes two reports the same problem: location, code and subject, whatever their words.

        A problem without a code or a subject is the same as its exact copies only.
        """
        return self if self.code == UNCODED or self.subject is None else (self.where, self.code, self.subject)

    def __str__(self) -> str:
        head = "  ".join(map(printable, filter(None, [str(self.where or ""), self.message])))
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
            "default": where.description if isinstance(where, Default) else None,
            "subject": self.subject,
            "nearest": self.nearest,
            "available": list(self.choices.available) if self.choices else None,
            "notes": [{"label": label, "text": text} for label, text in self.notes],
        }


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, one file after another, by line: what `defaults` set is read again for every step."""
    first: dict[Hashable, Problem] = {}
    for problem in problems:
        first.setdefault(problem.identity, problem)
    files = [problem.where.file for problem in first.values() if isinstance(problem.where, Place)]
    return sorted(first.values(), key=lambda problem: _position(problem.where, files))


def condensed(problems: Iterable[Problem]) -> list[Problem]:
    """The problems; one mistake on many lines of a file, by code and subject, as its first problem with the lines."""
    groups: dict[Hashable, list[Problem]] = {}
    for number, problem in enumerate(problems):
        where, named = problem.where, problem.identity is not problem
        line = isinstance(where, Place) and where.line is not None and named
        key = (where.file, problem.code, problem.subject) if line and isinstance(where, Place) else number
        groups.setdefault(key, []).append(problem)
    return [each for group in groups.values() for each in (group if len(group) <= FEW_LINES else [_of_many(group)])]


def _of_many(problems: Sequence[Problem]) -> Problem:
    first, *others = problems
    lines = [f"{each.where.line:,}" for each in others if isinstance(each.where, Place)]
    status = f"the same on {counted(len(others), 'other line')}: {listed(lines, FEW_LINES)}"
    return evolve(first, notes=(*first.notes, ("status", status)))


def _position(where: Location | None, files: Sequence[str]) -> tuple[int, int, int]:
    """The file, as its index in `files`, line and column; what is in no file comes first."""
    return (files.index(where.file), where.line or 0, where.column or 0) if isinstance(where, Place) else (-1, 0, 0)


class Notice(UserWarning):
    """A warning of Python (`warnings.warn`) that commands print as a note, each text once: nothing is wrong."""


class FluxflowError(Exception):
    """A mistake that a user can fix; carries every problem found, never a traceback.

    It takes the problems, or the parts of a single one as `Problem` does.
    """

    #: The exit code of a command that ends with this error.
    exit_code = 2

    def __init__(
        self,
        problems: Problem | str | Sequence[Problem],
        where: Location | str | None = None,
        notes: Iterable[tuple[str, object]] = (),
        **parts: Unpack[Parts],
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, where, notes, **parts)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n\n".join(str(problem) for problem in self.problems))


def in_short(error: BaseException) -> str:
    """An error as its record: every problem of ours, one line of any other."""
    return str(error) if isinstance(error, FluxflowError) else one_line(error)


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
