"""The plugins that a run was started with, and commands that load the same ones."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from attrs import frozen

from fluxflow_registry.engine.run.folder import ENVIRONMENT, read_json
from fluxflow_registry.errors import RunError

#: The environment variable that names the plugins to load.
VARIABLE = "FLUXFLOW_PLUGINS"

#: The key of `environment.json` under which they are recorded.
KEY = "started_with"


@frozen
class PluginsAtStart:
    """What was loaded besides the installed plugins, or in their place.

    A file that a run's folder names is never loaded because of that: a command shows it, and a user who trusts it
    passes it again.
    """

    #: The files of `--plugin`.
    files: tuple[str, ...] = ()
    #: The value of FLUXFLOW_PLUGINS; None if it was not set.
    variable: str | None = None

    def command(self, *words: str) -> str:
        """A shell command of these words that loads the same plugins."""
        plugins = "" if self.variable is None else f"{VARIABLE}={shlex.quote(self.variable)} "
        return plugins + shlex.join([*words, *flags(self.files)])


def flags(files: tuple[str, ...]) -> list[str]:
    """The flags that load these files; a file below the current folder is named relative to it."""
    return [part for file in files for part in ("--plugin", _relative(file))]


def _relative(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (OSError, ValueError):  # elsewhere, or the current folder was removed
        return file


def to_record(files: list[str]) -> dict[str, Any]:
    """What `environment.json` records under `KEY`: the files of `--plugin`, and the variable."""
    return {"plugins": [os.path.abspath(file) for file in files], VARIABLE: os.environ.get(VARIABLE)}


def read_plugins(folder: Path) -> PluginsAtStart:
    """The plugins that the run of this folder, or of this bundle, was started with; none if none are recorded."""
    try:
        content = read_json(folder / ENVIRONMENT)[KEY]
        files, variable = content["plugins"], content[VARIABLE]
    except (RunError, KeyError, TypeError, IndexError):
        return PluginsAtStart()
    known = tuple(file for file in files if isinstance(file, str)) if isinstance(files, list) else ()
    return PluginsAtStart(known, variable if isinstance(variable, str) else None)


def replay_command(bundle: Path) -> str:
    """The command that replays a bundle, with the plugins that the run was started with."""
    return read_plugins(bundle).command("fluxflow-run", "--replay", str(bundle))
