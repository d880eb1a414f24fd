"""The run's folder: found again by the same recipe, held by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from attrs import asdict, frozen

from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state import disk

IDENTITY = "run.json"

#: Where a run records the plugins, and what else, it is trained with.
ENVIRONMENT = "environment.json"
LOCK = ".lock"
POSITION = "position.json"

#: The entry of `run.json` for the error that ended the run.
FAILED = "failed"

#: Seconds for which a lock is waited for whose holder is dead.
ORPHANS_LEAVE = 5.0

_SIGNED = re.compile(r"process (\d+) on (\S+)")


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
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run in it is complete."""
        return bool(read_identity(self.path).get("finished"))

    def lock(self) -> IO[str]:
        """Hold the folder until the process ends; raises RunError naming the process that holds it."""
        try:
            handle = (self.path / LOCK).open("a+")
        except OSError as error:
            raise RunError(Problem(f"cannot be written: {error.strerror}", str(self.path))) from None
        try:
            _take(handle)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            raise RunError(Problem(f"is in use by {holder}", str(self.path))) from None
        with suppress(OSError):  # a full disk: the lock holds without a signature
            os.ftruncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        return handle

    def write_identity(self, finished: bool, facts: Mapping[str, Any] | None = None) -> None:
        """Record which recipe runs here, and whether it is through; without `facts`, those recorded stand.

        Whether it begins or ends here: the live position of the process before is of no more use.
        """
        known = read_identity(self.path) if facts is None else facts
        content = {**known, "recipe": self.digest, "finished": finished}
        try:
            (self.path / POSITION).unlink(missing_ok=True)
            disk.replace(self.path / IDENTITY, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise RunError(Problem(f"cannot be written: {error.strerror}", str(self.path))) from None

    def write_failure(self, told: str) -> None:
        """Record the error that ended the run, for `--status`; it stands until the run is started again."""
        known = read_identity(self.path)
        if known:  # else it had not begun
            with suppress(OSError):  # a full disk may be what the error tells of
                disk.replace(self.path / IDENTITY, (json.dumps({**known, FAILED: told}, indent=1) + "\n").encode())

    def record_position(self, position: Position) -> None:
        """Leave word of how far training is: a hint for `--status`, not synced, never read by training."""
        working = self.path / f".{POSITION}.writing"
        try:
            working.write_text(json.dumps({**asdict(position), "time": time.time()}) + "\n")
            working.replace(self.path / POSITION)
        except OSError:
            with suppress(OSError):
                working.unlink(missing_ok=True)


def _take(handle: IO[str]) -> None:
    """Lock a file; raises OSError where another process holds it.

    One that only looks at it (`held_by`) is gone in a moment, and so are the workers of one that was
    killed: they hold what it held until they notice.
    """
    begun = time.monotonic()
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() - begun > (ORPHANS_LEAVE if _is_dead(handle) else 0.1):
                raise
            time.sleep(0.02)


def _is_dead(handle: IO[str]) -> bool:
    """Whether the process that has signed the lock was one of this machine and is no more."""
    handle.seek(0)
    signed = _SIGNED.match(handle.read(200))
    if signed is None or signed[2] != os.uname().nodename:
        return False
    try:
        os.kill(int(signed[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def held_by(folder: Path) -> str | None:
    """The process that holds a run's folder, if one does; nothing is changed, and nobody waited for."""
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
    except OSError:  # a disk that knows no locks
        return None
    finally:
        os.close(handle)
    return None


def digest_of(recipe: Any) -> str:
    """The identity of a resolved recipe: the same settings, the same digest."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file says; raises RunError where it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise RunError(Problem("is no file", str(path)))
        return json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    except (ValueError, RecursionError) as error:
        raise RunError(Problem(f"is no valid JSON: {one_line(error)}", str(path))) from None


def read_identity(folder: Path) -> dict[str, Any]:
    """What is recorded of a run; empty where nothing is."""
    try:
        content = read_json(folder / IDENTITY)
    except RunError:
        return {}
    return content if isinstance(content, dict) else {}


def unfinished(root: Path, name: str, digest: str) -> tuple[RunFolder | None, list[Path]]:
    """The newest unfinished run of this very recipe, and unfinished runs of other forms of it."""
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
    """A new folder `<name>-<YYYYMMDD-HHMMSS>`; raises RunError where it cannot be made."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = root / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return RunFolder(path, digest)
    except OSError as error:
        raise RunError(Problem(f"the output folder cannot be written: {error.strerror}", str(root))) from None
    raise RunError(Problem("no free name for a run's folder", str(root)))
