"""With which plugins a run was started, and commands that load them again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from attrs import frozen

from fluxflow_registry.engine.run.folder import ENVIRONMENT, read_json
from fluxflow_registry.errors import RunError

#: The variable that names the plugins to load.
STATED = "FLUXFLOW_PLUGINS"

#: Where `environment.json` says with what the run was started.
KEY = "started_with"


@frozen
class Started:
    """What was loaded beside, or instead of, the plugins that are installed.

    A file that a folder names is never loaded for that: it is shown, and whoever trusts it names it again.
    """

    #: The files of `--plugin`.
    files: tuple[str, ...] = ()
    #: What FLUXFLOW_PLUGINS said; None where it said nothing.
    stated: str | None = None

    def command(self, *words: str) -> str:
        """The command of these words that loads the same plugins, as a shell takes it."""
        plugins = "" if self.stated is None else f"{STATED}={shlex.quote(self.stated)} "
        return plugins + shlex.join([*words, *flags(self.files)])


def flags(files: tuple[str, ...]) -> list[str]:
    """The flags that load these files; a file below the current folder is named from there."""
    return [part for file in files for part in ("--plugin", _near(file))]


def _near(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (OSError, ValueError):  # elsewhere, or there is no current folder any more
        return file


def recorded(files: list[str]) -> dict[str, Any]:
    """What `environment.json` holds of how this process was started."""
    return {"plugins": [os.path.abspath(file) for file in files], STATED: os.environ.get(STATED)}


def started_with(folder: Path) -> Started:
    """With what the run of this folder, or of this bundle, was started; nothing where nothing is recorded."""
    try:
        content = read_json(folder / ENVIRONMENT)[KEY]
        files, stated = content["plugins"], content[STATED]
    except (RunError, KeyError, TypeError, IndexError):
        return Started()
    known = tuple(file for file in files if isinstance(file, str)) if isinstance(files, list) else ()
    return Started(known, stated if isinstance(stated, str) else None)


def replay_command(bundle: Path) -> str:
    """The command that looks into a bundle, with the plugins that the run was started with."""
    return started_with(bundle).command("fluxflow-run", "--replay", str(bundle))
