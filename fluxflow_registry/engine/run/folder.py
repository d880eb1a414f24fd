"""The run's folder: found again by the same recipe, locked by one process, with the plugins it was started with."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from attrs import asdict, define, field, frozen

from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import Problem, RunError, TrainingError
from fluxflow_registry.state import bookkeeping, checkpoints, disk
from fluxflow_registry.state.bookkeeping import read_json

IDENTITY = "run.json"

#: Where a run records the plugins, the versions and the device that it is trained with.
ENVIRONMENT = "environment.json"
LOCK = ".lock"
POSITION = "position.json"
RECIPE = "recipe.yaml"
CHECKPOINTS = "checkpoints"
FINAL = "final"

#: The folder of bundles, and the file that makes a folder in it one.
NOT_FINITE = "not_finite"
BUNDLE = "bundle.json"

#: The entry of `run.json` for the error that ended the run.
FAILED = "failed"

#: The entry of `run.json` for the time at which the run started, in seconds since 1970: it is in no time zone.
STARTED = "started"

#: A time that no clock shows, in the year 5138.
LATEST = 1e11

#: Seconds to wait for a lock whose owner is dead: its workers keep the lock until they notice.
ORPHANED_LOCK = 5.0

_OWNER = re.compile(r"process (\d+) on (\S+)(?:\nstarted (\d+))?")

#: The end of the name of a new run's folder: when it was created, on the clock of that machine.
_STAMP = re.compile(r"-(\d{8}-\d{6})(?:-\d+)?\Z")

#: The environment variable that names the plugins to load.
VARIABLE = "FLUXFLOW_PLUGINS"

#: The key of `environment.json` under which the plugins that a run was started with are recorded.
STARTED_WITH = "started_with"


class FolderLostError(TrainingError):
    """The folder of a run was deleted or moved: the run ends, whoever finds out."""


@define
class RunFolder:
    """A folder and the identity of the recipe that runs in it."""

    path: Path
    digest: str
    #: Whether it is deleted at the end, as that of a replay is: nothing is saved in it.
    temporary: bool = False
    #: Whether this process has locked it.
    _locked: bool = field(default=False, init=False, eq=False, repr=False)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are committed."""
        return self.path / CHECKPOINTS

    def lock(self, note: Callable[[str], object] = lambda _: None) -> IO[bytes]:
        """Lock the folder until the process ends; raises RunError naming the process that has locked it.

        `note` is called with each guarantee that its disk cannot give.
        """
        try:
            handle = disk.open_lock(self.path / LOCK)
        except OSError as error:
            message = f"cannot open the lock file of the run: {error.strerror}"
            foreign = error.strerror == disk.NOT_REGULAR or isinstance(error, IsADirectoryError)
            notes = [("hint", "remove it: it was not created by a run")] if foreign else []
            raise RunError(message, str(self.path / LOCK), notes, code="unwritable-file") from None
        try:
            if not _acquire(handle):
                self._without_locks(handle, note)
        except (BlockingIOError, PermissionError):
            owner = _name_of(_owner_of(handle.fileno()))
            handle.close()
            raise RunError(f"the run is in use by {owner}", str(self.path), code="conflict") from None
        except OSError as error:
            handle.close()
            message = f"cannot lock the folder of the run: {error.strerror}"
            raise RunError(message, str(self.path), code="unwritable-file") from None
        with suppress(OSError):  # a full disk: the lock works without the owner's name
            if os.fstat(handle.fileno()).st_nlink == 1:  # not in a copy of the folder that consists of links
                os.ftruncate(handle.fileno(), 0)
                os.lseek(handle.fileno(), 0, os.SEEK_SET)
                started = f"\nstarted {each[1]}" if (each := _process(os.getpid())) else ""
                os.write(handle.fileno(), f"process {os.getpid()} on {platform.node()}{started}".encode())
        try:
            with _writing(self.path):
                for missing in disk.missing_guarantees(handle, self.path):
                    note(f"{self.path}: {missing}")
        except RunError:
            handle.close()
            raise
        self._locked = True
        return handle

    def _without_locks(self, handle: IO[bytes], note: Callable[[str], object]) -> None:
        """On a disk without locks, raise RunError if the process that the lock file names is running."""
        owner = _owner_of(handle.fileno())
        running = _is_another(owner)
        if running:
            handle.close()
            hint = f"if that process does not train it, remove {self.path / LOCK}: files cannot be locked on this disk"
            message = f"the run is in use by {_name_of(owner)}"
            raise RunError(message, str(self.path), [("hint", hint)], code="conflict")
        if running is None:
            note(f"{self.path}: {_name_of(owner)} has used this run: make sure that it has ended")

    def unlock(self, handle: IO[bytes]) -> None:
        """Unlock the folder; on a disk without locks, the lock file names this process no longer."""
        with suppress(OSError):
            if not disk.lock(handle) and os.fstat(handle.fileno()).st_nlink == 1:
                os.ftruncate(handle.fileno(), 0)
        handle.close()

    def require(self) -> None:
        """Raise FolderLostError if the folder was deleted or moved while this process trains in it.

        What is written then would create another folder, without the recipe and without the earlier checkpoints.
        """
        # Any of the files that a run has from its start: somebody may clear up old files one by one.
        if self._locked and not any(_may_exist(self.path / name) for name in (LOCK, IDENTITY, RECIPE)):
            notes = (
                ("status", "training since the newest checkpoint is lost"),
                ("hint", "if the folder was moved, move it back and rerun the same command to resume"),
            )
            message = "the folder of the run was deleted or moved while it was being trained"
            raise FolderLostError(Problem(message, str(self.path), notes, code="missing-file"))

    def write_identity(
        self,
        finished: bool,
        facts: Mapping[str, Any] | None = None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Record which recipe runs here, and whether it is finished; without `facts`, the recorded ones are kept.

        The live position of an earlier process is removed: it is outdated when a run starts and when it ends. `warn` is
        called with a message if the earlier record is damaged.
        """
        before = bookkeeping.read_back(self.path / IDENTITY, checked_identity, warn) or {}
        started = _started(self.path, before) if before else _now_after(self.path.parent)
        known = before if facts is None else facts
        with suppress(OSError):
            (self.path / POSITION).unlink()
        with _writing(self.path):
            self._write({**known, STARTED: started, "recipe": self.digest, "finished": finished})

    def write_failure(self, error: str) -> None:
        """Record the error that ended the run, for `--status`; starting the run again removes it."""
        known = read_identity(self.path)
        if known:  # else it had not started
            with suppress(OSError):  # a full disk may be the error itself
                self._write({**known, FAILED: error})

    def _write(self, identity: Mapping[str, Any]) -> None:
        content = {**identity, "digest": checkpoints.own_digest(identity)}
        disk.replace(self.path / IDENTITY, (json.dumps(content, indent=1) + "\n").encode())

    def record_position(self, position: Position) -> None:
        """Record how far training is: a hint for `--status`, not synced, never read by training."""
        content = json.dumps({**asdict(position), "time": time.time()}) + "\n"
        with suppress(OSError):
            disk.replace(self.path / POSITION, content.encode(), synced=False)


def bundles(run: Path) -> list[Path]:
    """The bundles in a run's folder, oldest first."""
    return sorted(path for path in (run / NOT_FINITE).glob("[!.]*") if (path / BUNDLE).is_file())


def require_folders(paths: Iterable[Path]) -> None:
    """Raise RunError for each path that cannot be a folder into which files are written."""
    problems = []
    for path in dict.fromkeys(paths):
        if "\0" in str(path):
            message, notes = f"`{path}` contains a NUL character, which no path can", []
        elif os.path.lexists(path) and not path.is_dir():
            message, notes = f"`{path.name}` is not a folder, but files are written into it", [("hint", "move it away")]
        else:
            continue
        problems.append(Problem(message, str(path), notes, code="unwritable-file", subject=path.name))
    if problems:
        raise RunError(problems)


def _may_exist(path: Path) -> bool:
    """Whether a file exists; true where the disk does not answer now, as writing reports that."""
    try:
        path.lstat()
    except OSError as error:
        return not isinstance(error, (FileNotFoundError, NotADirectoryError))
    return True


def _writing(path: Path) -> AbstractContextManager[None]:
    return disk.writing(f"write to `{path.name}`", str(path))


def _acquire(handle: IO[bytes]) -> bool:
    """Lock a file; returns False where files cannot be locked.

    Raises BlockingIOError or PermissionError where another process has locked it.

    A process that only looks (`lock_owner`) unlocks it in a moment, and so do the workers of a process that
    was killed, once they notice.
    """
    started = time.monotonic()
    while True:
        try:
            return disk.lock(handle)
        except (BlockingIOError, PermissionError):
            orphaned = _is_running(_owner_of(handle.fileno())) is False
            if time.monotonic() - started > (ORPHANED_LOCK if orphaned else 0.1):
                raise
            time.sleep(0.02)


def _owner_of(handle: int) -> str:
    """The name of a lock's owner, as far as it is recorded; `handle` is the open file."""
    with suppress(OSError):
        os.lseek(handle, 0, os.SEEK_SET)
        return os.read(handle, 200).decode(errors="replace").strip()
    return ""


def _name_of(owner: str) -> str:
    """The process that a lock file names, without its start time."""
    return owner.partition("\n")[0] if _OWNER.match(owner) else "another process"


def _is_running(owner: str) -> bool | None:
    """Whether the process that a lock file names is running; None where that cannot be known from here."""
    named = _OWNER.match(owner)
    if named is None or named[2] != platform.node() or os.name != "posix":
        return None
    number = int(named[1])
    try:
        os.kill(number, 0)
    except (OSError, OverflowError) as error:
        if not isinstance(error, PermissionError):  # that of another user
            return False
    if (process := _process(number)) is None:
        return True
    state, started = process
    if state in "ZX":  # killed, but its parent has not noticed
        return False
    if named[3] is not None:  # else the number may have been given to another process since
        return started == named[3]
    with suppress(OSError):  # an older version recorded no start
        return b"fluxflow" in Path(f"/proc/{number}/cmdline").read_bytes()
    return True


def _is_another(owner: str) -> bool | None:
    """As `_is_running`, but False for this process itself."""
    named = _OWNER.match(owner)
    if not owner or (named is not None and (named[1], named[2]) == (str(os.getpid()), platform.node())):
        return False
    return _is_running(owner)


def _process(number: int) -> tuple[str, str] | None:
    """The state of a process and when it started, in ticks since the system started; None where it is not known."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    return None


def lock_owner(folder: Path) -> tuple[str | None, bool]:
    """The process that has locked a run's folder, or None, and whether that is certain; it does not wait.

    It is not certain where files cannot be locked and the process ran on another machine.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None, True
    try:
        if disk.lock(handle, shared=True):
            return None, True
        owner = _owner_of(handle)
        running = _is_another(owner)
        return (None if running is False else _name_of(owner)), running is not None
    except (BlockingIOError, PermissionError):
        return _name_of(_owner_of(handle)), True
    except OSError:
        return None, True
    finally:
        os.close(handle)


def digest_of(recipe: Any) -> str:
    """The identity of an effective recipe: the same settings have the same digest."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def checked_identity(content: Any) -> dict[str, Any]:
    """The record of a run as it was written; raises ValueError for anything else."""
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), str):
        raise ValueError("the record of the run does not name its recipe")
    identity = {key: value for key, value in content.items() if key != "digest"}
    if content.get("digest", own := checkpoints.own_digest(identity)) != own:  # an older version recorded none
        raise ValueError("the record of the run does not match its own digest")
    return identity


def read_identity(folder: Path) -> dict[str, Any]:
    """The record of a run; where it is missing or damaged, the recipe that its newest checkpoint names, or nothing."""
    with suppress(RunError, ValueError):
        return checked_identity(read_json(folder / IDENTITY))
    for found in checkpoints.listing(folder / CHECKPOINTS):
        with suppress(RunError, AttributeError):
            recipe = checkpoints.read_meta(found.folder).get("recipe")
            if isinstance(recipe, str):
                return {"recipe": recipe}
    return {}


def _started(path: Path, identity: Mapping[str, Any]) -> float:
    """When a run started; an older version recorded it in the name of the folder only, in the local time."""
    started, stamp = identity.get(STARTED), _STAMP.search(path.name)
    if isinstance(started, (int, float)) and 0 < started < LATEST:
        return float(started)
    with suppress(ValueError, OverflowError, OSError):
        if stamp is not None:
            return datetime.strptime(stamp[1], "%Y%m%d-%H%M%S").timestamp()
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _now_after(root: Path) -> float:
    """The time, but later than the start of every run in a folder: the clock may have been set back since then."""
    starts = [_started(path.parent, read_identity(path.parent)) for path in root.glob(f"*/{IDENTITY}")]
    return max([time.time(), *(start + 1 for start in starts)])


def unfinished(root: Path, name: str, digest: str) -> tuple[RunFolder | None, dict[Path, str]]:
    """The newest unfinished run of this recipe, and what each other run is that could be meant.

    Runs of another version of the recipe are listed only if there is none of this one.
    """
    found: RunFolder | None = None
    others: dict[Path, str] = {}
    versions: dict[Path, str] = {}
    runs = [(path, read_identity(path)) for path in sorted(root.glob(f"{name}-*"), reverse=True)]
    for path, identity in sorted(runs, key=lambda run: _started(*run), reverse=True):
        if not identity:
            if os.path.lexists(path / IDENTITY) and _STAMP.fullmatch(path.name.removeprefix(name)):
                others[path] = f"a run whose {IDENTITY} is damaged, and no checkpoint names its recipe"
        elif identity.get("finished") or identity.get("name", name) != name:
            continue
        elif identity["recipe"] != digest:
            versions[path] = "an unfinished run of another version of this recipe"
        elif found is None:
            found = RunFolder(path, digest)
        else:
            others[path] = "an older unfinished run of this recipe"
    return found, others if found else others | versions


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
