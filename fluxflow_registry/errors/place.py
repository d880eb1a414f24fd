"""Where a problem is: in a file, in a flag of the command line, or in an environment variable."""

from __future__ import annotations

from typing import overload

from attrs import field, frozen


@frozen
class Place:
    """A file or folder, and a line and column in it where they are known, counted from 1."""

    file: str
    line: int | None = None
    column: int | None = None
    #: The path of keys that leads to it in a recipe, such as `steps.vae.updates.vae.losses.kl`.
    key: str | None = field(default=None, eq=False)

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@frozen
class Flag:
    """A flag of the command line, with its value where that is to blame."""

    flag: str
    value: str | None = None

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
    """A default, which no file sets; the description says whose it is."""

    description: str

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
