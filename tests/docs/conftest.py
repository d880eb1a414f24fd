"""The pages, each executed once."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import frozen

from .story import REPOSITORY, Played, folder_of, play, reader

PAGES = ("write-a-loss", "recipes", "durability", "from-fluxflow")


@frozen
class Reading:
    """What executing a page leaves: a home, a working folder in it, and the output of each command."""

    home: Path
    folder: Path
    environment: dict[str, str]
    played: dict[int, Played]


class Readings(dict[str, Reading]):
    """Each page, executed in an empty folder of its own when it is first requested."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self.factory = factory

    def __missing__(self, name: str) -> Reading:
        home = self.factory.mktemp(name)
        folder, environment = folder_of(home), reader(home)
        played = play(REPOSITORY / "docs" / f"{name}.md", folder, environment)
        self[name] = Reading(home, folder, environment, {one.command.line: one for one in played})
        return self[name]


@pytest.fixture(scope="session")
def readings(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    """The pages, each executed once."""
    return Readings(tmp_path_factory)
