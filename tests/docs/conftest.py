"""The pages that are played, each once."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import frozen

from .story import REPOSITORY, Played, folder_of, play, reader

PAGES = ("write-a-loss", "recipes", "durability", "from-fluxflow")


@frozen
class Reading:
    """What somebody has who followed a page: a home, a working folder in it, and what each command printed."""

    home: Path
    folder: Path
    environment: dict[str, str]
    played: dict[int, Played]


@pytest.fixture(scope="session")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """Each page, followed to its end in an empty folder of its own."""
    found = {}
    for name in PAGES:
        home = tmp_path_factory.mktemp(name)
        folder, environment = folder_of(home), reader(home)
        played = play(REPOSITORY / "docs" / f"{name}.md", folder, environment)
        found[name] = Reading(home, folder, environment, {one.command.line: one for one in played})
    return found
