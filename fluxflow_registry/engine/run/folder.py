"""The run's folder: found again by the same recipe, locked by one process, with the plugins it was started with."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from attrs import asdict, frozen

from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import RunError, one_line
from fluxflow_registry.state import disk

IDENTITY = "run.json"

#: Where a run records the plugins, the versions and the device that it is trained with.
ENVIRONMENT = "environment.json"
LOCK = ".lock"
POSITION = "position.json"
RECIPE = "recipe.yaml"
CHECKPOINTS = "checkpoints"

#: The folder of bundles, and the file that makes a folder in it one.
NOT_FINITE = "not_finite"
BUNDLE = "bundle.json"

#: The entry of `run.json` for the error that ended the run.
FAILED = "failed"

#: Seconds to wait for a lock whose owner is dead: its workers keep the lock until they notice.
ORPHANED_LOCK = 5.0

_OWNER = re.compile(r"process (\d+) on (\S+)")

#: The environment variable that names the plugins to load.
VARIABLE = "FLUXFLOW_PLUGINS"

#: The key of `environment.json` under which the plugins that a run was started with are recorded.
STARTED_WITH = "started_with"


@frozen
class RunFolder:
    """A folder and the identity of the recipe that runs in it."""

    path: Path
    digest: str
    #: Whether it is deleted at the end, as that of a replay is: nothing is saved in it.
    temporary: bool = False

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are committed."""
        return self.path / CHECKPOINTS

    def lock(self) -> IO[str]:
        """Lock the folder until the process ends; raises RunError naming the process that has locked it."""
        with _writing(self.path):
            handle = (self.path / LOCK).open("a+")
        try:
            _acquire(handle)
        except OSError:
            handle.seek(0)
            owner = handle.read().strip() or "another process"
            handle.close()
            raise RunError(f"the run is in use by {owner}", str(self.path), code="conflict") from None
        with suppress(OSError):  # a full disk: the lock works without the owner's name
            os.ftruncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        return handle

    def write_identity(self, finished: bool, facts: Mapping[str, Any] | None = None) -> None:
        """Record which recipe runs here, and whether it is finished; without `facts`, the recorded ones are kept.

        The live position of an earlier process is removed: it is outdated when a run starts and when it ends.
        """
        known = read_identity(self.path) if facts is None else facts
        content = {**known, "recipe": self.digest, "finished": finished}
        with _writing(self.path):
            (self.path / POSITION).unlink(missing_ok=True)
            disk.replace(self.path / IDENTITY, (json.dumps(content, indent=1) + "\n").encode())

    def write_failure(self, error: str) -> None:
        """Record the error that ended the run, for `--status`; starting the run again removes it."""
        known = read_identity(self.path)
        if known:  # else it had not started
            with suppress(OSError):  # a full disk may be the error itself
                disk.replace(self.path / IDENTITY, (json.dumps({**known, FAILED: error}, indent=1) + "\n").encode())

    def record_position(self, position: Position) -> None:
        """Record how far training is: a hint for `--status`, not synced, never read by training."""
        working = self.path / f".{POSITION}.writing"
        try:
            working.write_text(json.dumps({**asdict(position), "time": time.time()}) + "\n")
            working.replace(self.path / POSITION)
        except OSError:
            with suppress(OSError):
                working.unlink(missing_ok=True)


def bundles(run: Path) -> list[Path]:
    """The bundles in a run's folder, oldest first."""
    return sorted(path for path in (run / NOT_FINITE).glob("[!.]*") if (path / BUNDLE).is_file())


def _writing(path: Path) -> AbstractContextManager[None]:
    return disk.writing(f"write to `{path.name}`", str(path))


def _acquire(handle: IO[str]) -> None:
    """Lock a file; raises OSError where another process has locked it.

    A process that only looks (`lock_owner`) unlocks it in a moment, and so do the workers of a process that
    was killed, once they notice.
    """
    started = time.monotonic()
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() - started > (ORPHANED_LOCK if _owner_is_dead(handle) else 0.1):
                raise
            time.sleep(0.02)


def _owner_is_dead(handle: IO[str]) -> bool:
    """Whether the process that is named as the lock's owner ran on this machine and has ended."""
    handle.seek(0)
    owner = _OWNER.match(handle.read(200))
    if owner is None or owner[2] != os.uname().nodename:
        return False
    try:
        os.kill(int(owner[1]), 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def lock_owner(folder: Path) -> str | None:
    """The process that has locked a run's folder, or None; changes nothing and does not wait."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError):
            return os.read(handle, 200).decode(errors="replace").strip() or "another process"
        return "another process"
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(handle)
    return None


def digest_of(recipe: Any) -> str:
    """The identity of an effective recipe: the same settings have the same digest."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises RunError if it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait forever
            raise OSError(0, "it is not a regular file")
        return json.loads(path.read_bytes())
    except OSError as error:
        message = f"`{path.name}` cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        message = f"`{path.name}` is not valid JSON: {one_line(error)}"
    raise RunError(message, str(path), code="unreadable-file")


def read_identity(folder: Path) -> dict[str, Any]:
    """The record of a run; empty if there is none."""
    try:
        content = read_json(folder / IDENTITY)
    except RunError:
        return {}
    return content if isinstance(content, dict) else {}


def unfinished(root: Path, name: str, digest: str) -> tuple[RunFolder | None, list[Path]]:
    """The newest unfinished run of this recipe, and unfinished runs of other versions of it."""
    others: list[Path] = []
    for path in sorted(root.glob(f"{name}-*"), reverse=True):
        identity = read_identity(path)
        if not identity or identity.get("finished"):
            continue
        if identity.get("recipe") == digest:
            return RunFolder(path, digest), others
        others.append(path)
    return None, others


def new(root: Path, name: str, digest: str) -> RunFolder:
    """A new folder `<name>-<YYYYMMDD-HHMMSS>`; raises RunError if it cannot be created."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = root / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
            with suppress(FileExistsError):
                path.mkdir()
                return RunFolder(path, digest)
    message = f"all names for a new run, from {name}-{stamp} on, are in use"
    raise RunError(message, str(root), code="unwritable-file")


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
    """What `environment.json` records under `STARTED_WITH`: the files of `--plugin`, and the variable."""
    return {"plugins": [os.path.abspath(file) for file in files], VARIABLE: os.environ.get(VARIABLE)}


def read_plugins(folder: Path) -> PluginsAtStart:
    """The plugins that the run of this folder, or of this bundle, was started with; none if none are recorded."""
    try:
        content = read_json(folder / ENVIRONMENT)[STARTED_WITH]
        files, variable = content["plugins"], content[VARIABLE]
    except (RunError, KeyError, TypeError, IndexError):
        return PluginsAtStart()
    known = tuple(file for file in files if isinstance(file, str)) if isinstance(files, list) else ()
    return PluginsAtStart(known, variable if isinstance(variable, str) else None)


def replay_command(bundle: Path) -> str:
    """The command that replays a bundle, with the plugins that the run was started with."""
    return read_plugins(bundle).command("fluxflow-run", "--replay", str(bundle))
